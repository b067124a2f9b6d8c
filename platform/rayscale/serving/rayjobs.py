"""Batches as jobs of Ray, which outlive the service that started them."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rayscale.serving.errors import UnavailableError


class RayJobs:
    """Through the job server of the cluster that this process has joined."""

    def __init__(self, variables: dict[str, str]) -> None:
        path = os.environ.get("PYTHONPATH")  # where the replica found rayscale, the job does
        self._variables = variables | ({"PYTHONPATH": path} if path else {})
        self._made: Any = None

    def submit(self, job: str, record: str) -> None:
        """See ``batches.Jobs``."""
        words = (sys.executable, "-m", "rayscale.serving.batchrun", record)
        with self._asking() as client:
            client.submit_job(
                entrypoint=shlex.join(words),
                submission_id=job,
                entrypoint_num_cpus=0,
                runtime_env={"env_vars": self._variables},
            )

    def ended(self, job: str) -> str | None:
        """See ``batches.Jobs``."""
        with self._asking() as client:
            known = {each.submission_id: each for each in client.list_jobs()}
        found = known.get(job)
        if found is None:
            return "the cluster that worked on it is gone; retry it"
        if not found.status.is_terminal():
            return None
        return f"its job ended ({found.status.value}) without a result; retry it"

    def stop(self, job: str) -> None:
        """See ``batches.Jobs``."""
        with self._asking() as client:
            client.stop_job(job)

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        import ray
        from ray.job_submission import JobSubmissionClient

        try:
            if self._made is None:
                address = ray.get_runtime_context().gcs_address
                self._made = JobSubmissionClient(address)
            yield self._made
        except (
            Exception
        ) as error:  # of requests, of Ray, or a plain RuntimeError with the answer of the server
            self._made = None
            raise UnavailableError(
                "the job server of the cluster does not answer; batches need a Ray with its dashboard"
            ) from error
