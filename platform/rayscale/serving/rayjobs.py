"""Batches as jobs of Ray, which outlive the service that started them."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rayscale.serving.errors import UnavailableError

log = logging.getLogger(__name__)

_CHARGE_S = 10.0
_COUNTED_BY = "RAYSCALE_BATCH_COUNTED_BY"


def charge(key: str, megapixels: float) -> bool:
    """Charge the key of this id for what the batch of this job has enlarged; whether that was counted, or nobody counts."""
    application = os.environ.get(_COUNTED_BY)
    if application is None:
        return True
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        handle = serve.get_deployment_handle("Counting", application)
        handle.charge.remote(key, megapixels).result(timeout_s=_CHARGE_S)
    except (RayServeException, RayError, TimeoutError) as error:
        log.warning("%.3g megapixels of the key %s are not counted yet: %s", megapixels, key, error)
        return False
    return True


class RayJobs:
    """Through the job server of the cluster that this process has joined.

    Args:
        variables: the environment of the jobs.
        counted_by: the application of Ray Serve that counts megapixels of keys; None where no key has a quota.
    """

    def __init__(self, variables: dict[str, str], counted_by: str | None = None) -> None:
        path = os.environ.get("PYTHONPATH")  # where the replica found rayscale, the job does
        self._variables = variables | ({"PYTHONPATH": path} if path else {})
        if counted_by is not None:
            self._variables[_COUNTED_BY] = counted_by
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
