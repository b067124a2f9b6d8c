"""What the routes share: the backend, its readiness and the settings, and the one way an image takes through them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from rayscale.imaging import probe
from rayscale.serving.backend import Backend, Readiness
from rayscale.serving.errors import DeadlineError
from rayscale.serving.jobs import Job, Result, check_size
from rayscale.serving.refusals import Refusals
from rayscale.serving.settings import ServeSettings


@dataclass
class Service:
    """One ingress at work."""

    backend: Backend
    settings: ServeSettings
    readiness: Readiness = field(init=False)
    refusals: Refusals = field(init=False)

    def __post_init__(self) -> None:
        self.readiness = Readiness(self.backend)
        self.refusals = Refusals(self.settings)

    async def upscale(self, job: Job) -> Result:
        """The enlarged image, its seconds with those of waiting (``queue``) and ``total``.

        By the header alone it is refused before it takes a place in the queue of the model replicas. Raises the errors of
        ``rayscale.serving.errors.TABLE``.
        """
        limit = self.settings.request_timeout_s
        check_size(await asyncio.to_thread(probe, job.data), job.options.scale or 1)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(limit):
                result = await self.backend.upscale(job)
        except TimeoutError:
            raise DeadlineError(
                f"the image was not done within {limit:g} s (RAYSCALE_SERVE_REQUEST_TIMEOUT_S); send it in parts or "
                "use the batch job"
            ) from None
        self.readiness.note()
        total = time.perf_counter() - began
        queue = max(0.0, total - sum(result.seconds.values()))
        result.seconds.update({"queue": queue, "total": total})
        return result
