"""What the routes share: the backend, its readiness and the settings, and the one way an image takes through them."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice

from starlette.requests import Request

from rayscale.errors import RayscaleError
from rayscale.imaging import probe
from rayscale.serving.backend import Backend, Readiness
from rayscale.serving.batches import Batches
from rayscale.serving.errors import DeadlineError, OverloadedError, row_of
from rayscale.serving.fairness import FairQueue
from rayscale.serving.keys import Key, key_of, owner_of
from rayscale.serving.metrics import IngressMetrics
from rayscale.serving.quotas import Quotas
from rayscale.serving.refusals import Refusals
from rayscale.serving.requests import Result, UpscaleRequest, check_size
from rayscale.serving.settings import ServeSettings
from rayscale.serving.traces import Traces

_EVERY = 0.05
"""Megapixels that any image costs in the queue, so that the smallest count as well."""


@dataclass(frozen=True)
class Caller:
    """Whose request it is: the key, and whom the places are shared with."""

    key: Key
    owner: str

    @classmethod
    def of(cls, request: Request) -> Caller:
        return cls(key_of(request.scope), owner_of(request.scope))


@dataclass
class Service:
    """One ingress at work."""

    backend: Backend
    settings: ServeSettings
    batches: Batches | None = None
    quotas: Quotas = field(default_factory=Quotas)
    readiness: Readiness = field(init=False)
    refusals: Refusals = field(init=False)

    queue: FairQueue = field(init=False)
    traces: Traces = field(init=False)
    metrics: IngressMetrics = field(init=False, default_factory=IngressMetrics)

    def __post_init__(self) -> None:
        self.traces = Traces(self.settings)
        self.queue = FairQueue(self._places, self.settings.max_waiting, self._spare)
        self.readiness = Readiness(self.backend)
        self.refusals = Refusals(self.settings)

    def measured(self) -> IngressMetrics:
        """The metrics, with what is at this moment."""
        self.metrics.waiting.set(self.queue.waiting)
        self.metrics.running.set(self.queue.running)
        return self.metrics

    def _places(self) -> int:
        return self.backend.places()

    def _spare(self) -> int:
        return math.ceil(self.backend.places() / 2)

    def check_room(self, caller: Caller) -> None:
        """Raise OverloadedError where an image of ``caller`` would be refused for want of room: before its body is read,
        which costs more than the refusal."""
        try:
            self.queue.check(caller.owner)
        except OverloadedError as error:
            self.metrics.note_refusal(error.code, caller.key)
            raise

    async def upscale(self, asked: UpscaleRequest, caller: Caller) -> Result:
        """The enlarged image, counted; see :meth:`_upscale`."""
        try:
            result = await self._upscale(asked, caller)
        except RayscaleError as error:
            row = row_of(error)
            self.metrics.note_refusal("internal" if row is None else error.code, caller.key)
            raise
        self.metrics.note_image(result, caller.key, len(asked.data))
        self.traces.note_image(result)
        return result

    async def _upscale(self, asked: UpscaleRequest, caller: Caller) -> Result:
        """The enlarged image, its seconds with those of waiting (``queue``) and ``total``.

        By the header alone it is refused before it takes a place in the queue of the model replicas. Raises the errors of
        ``rayscale.serving.errors.TABLE``.
        """
        limit = self.settings.request_timeout_s
        key, options = caller.key, asked.options
        key.check_model(asked.model or self.settings.model)
        header = await asyncio.to_thread(probe, asked.data)
        check_size(header, options.scale or 1)
        megapixels = header.pixels / 1e6
        await self.quotas.take_megapixels(key, megapixels)
        cost = megapixels * (options.scale or 2) ** 2 * (8 if options.ensemble else 1)
        began = time.perf_counter()
        try:
            async with (
                asyncio.timeout(limit),
                self.queue.turn(caller.owner, weight=key.priority, cost=cost + _EVERY),
            ):
                whose = replace(asked, owner=caller.owner, weight=key.priority)
                result = await self.backend.upscale(whose)
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

    async def upscale_many(
        self, requests: Iterable[UpscaleRequest], caller: Caller
    ) -> AsyncGenerator[Result | RayscaleError]:
        """What comes of each, in their order; ``form_images`` of them are held at once, so that memory does not grow with
        their number.

        An image that meets a full queue waits for its turn, except the first: where that is refused, all are.
        """
        waiting = iter(requests)
        works: deque[asyncio.Task[Result | RayscaleError]] = deque()
        patient = False
        try:
            while True:
                for asked in islice(waiting, self.settings.form_images - len(works)):
                    works.append(asyncio.create_task(self._outcome(asked, caller, patient)))
                    patient = True
                if not works:
                    return
                outcome = await works[0]
                works.popleft()
                yield outcome
                del outcome  # nothing is held beyond the next one
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    async def _outcome(
        self, asked: UpscaleRequest, caller: Caller, patient: bool
    ) -> Result | RayscaleError:
        deadline = time.monotonic() + self.settings.request_timeout_s
        while True:
            try:
                return await self.upscale(asked, caller)
            except OverloadedError as error:
                if not patient or time.monotonic() > deadline:
                    return error
            except RayscaleError as error:
                return error
            await asyncio.sleep(self.settings.retry_after_s)
