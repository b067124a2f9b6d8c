"""What does the work of the interface: model replicas reached through Ray Serve (``app``), or an ``Engine`` in this process."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

from rayscale.serving.errors import OverloadedError, UnavailableError
from rayscale.serving.metrics import Snapshot
from rayscale.serving.requests import EstimateRequest, Result, UpscaleRequest

_PROBE_TIMEOUT_S = 2.0
_READY_FOR_S = 60.0


class Backend(Protocol):
    """What answers: its errors are those of ``rayscale.serving.errors.TABLE``."""

    def name(self) -> str:
        """Of the process that serves the interface, among its replicas."""

    def places(self) -> int:
        """Images that it can take at once; more wait in the queue of the service."""

    async def ready(self) -> bool:
        """Whether the default model is loaded."""

    async def models(self) -> list[dict[str, Any]]:
        """The models that can be asked for."""

    async def card(self, reference: str) -> dict[str, Any]:
        """Data, licence, scores and needs of one model."""

    async def estimate(self, asked: EstimateRequest) -> dict[str, Any]:
        """What an image would take and give."""

    async def metrics(self) -> list[tuple[str, Snapshot]]:
        """What other replicas count, by their names; those that do not answer are left out."""

    async def upscale(self, asked: UpscaleRequest) -> Result:
        """The enlarged image; cancelling the task gives the work up."""


class Readiness:
    """Whether the service can answer, also while its replicas are too busy to be asked.

    A probe that waits behind images would take a loaded service out of the rotation just when it is needed;
    so a good answer of any kind counts for a minute. Replicas that are really gone are replaced by Ray
    Serve within seconds.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._good_until = 0.0

    def note(self) -> None:
        """A replica has just answered well."""
        self._good_until = time.monotonic() + _READY_FOR_S

    async def __call__(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                ready = await self._backend.ready()
        except (TimeoutError, OverloadedError, UnavailableError):
            return time.monotonic() < self._good_until
        if ready:
            self.note()
        else:
            self._good_until = 0.0
        return ready
