"""The Ray Serve application: ``serve run serve/config.yaml`` or ``serve deploy serve/config.yaml``.

Two deployments, and a third where keys have quotas. ``Ingress`` speaks HTTP: it takes many requests at once, refuses from headers alone what
cannot be served, and stays free for probes. ``Upscaling`` holds the models: it takes few requests at once,
has a bounded queue, and is what scales with load and may own a GPU. In one deployment, probes would queue
behind images and every refusal would cost a place among them; the price of two is one more hop, some
milliseconds for an image of megabytes. ``Counting`` counts what keys ask for, once for all ingresses.

Numbers (replicas, queues, resources) are in ``config.yaml`` beside this file, settings in ``settings.py``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
)
from ray.serve.handle import DeploymentHandle

from rayscale.cluster import await_or_error, raise_error
from rayscale.errors import RayscaleError
from rayscale.serving.drain import Drain
from rayscale.serving.environment import passed_on
from rayscale.serving.errors import OverloadedError, QuotaError, UnavailableError
from rayscale.serving.keys import Key
from rayscale.serving.metrics import Snapshot, take_snapshot
from rayscale.serving.quotas import Quotas
from rayscale.serving.settings import get_serve_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from rayscale.serving.requests import EstimateRequest, Result, UpscaleRequest

T = TypeVar("T")

_GATHER_S = 5.0
"""For all replicas to tell what they count."""

_COUNT_S = 5.0
"""For the counter of quotas to answer; it does nothing else."""

_SEEN_S = 60.0
"""For which a replica counts that has answered: it may be gone since."""

log = logging.getLogger("ray.serve")


class Upscaling:
    """A replica with models in memory; see ``rayscale.serving.engine``."""

    def __init__(self) -> None:
        from rayscale.serving.engine import Engine

        self._name = serve.get_replica_context().replica_id.unique_id
        self._engine = Engine(get_serve_settings())
        self._engine.start()

    async def ready(self) -> bool:
        """Whether the default model is loaded."""
        return await self._engine.ready()

    async def models(self) -> list[dict[str, Any]] | RayscaleError:
        """The models that can be asked for."""
        return await await_or_error(self._engine.models())

    async def card(self, reference: str) -> dict[str, Any] | RayscaleError:
        """Data, licence, scores and needs of one model."""
        return await await_or_error(self._engine.card(reference))

    async def estimate(self, asked: EstimateRequest) -> dict[str, Any] | RayscaleError:
        """What an image would take and give."""
        return await await_or_error(self._engine.estimate(asked))

    async def metrics(self) -> list[tuple[str, Snapshot]]:
        """What this replica counts, under its name."""
        return [(self._name, snapshot) for _, snapshot in await self._engine.metrics()]

    async def upscale(self, asked: UpscaleRequest) -> Result | RayscaleError:
        """The enlarged image."""
        result = await await_or_error(self._engine.upscale(asked))
        if isinstance(result, RayscaleError):
            return result
        return replace(result, replica=self._name)

    def __del__(self) -> None:
        self._engine.close()


class Replicas:
    """The ``Backend`` of the ingress: the replicas of ``Upscaling``, their failures as domain errors."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._seen: dict[str, float] = {}

    def name(self) -> str:
        """Of this ingress."""
        return str(serve.get_replica_context().replica_id.unique_id)

    def places(self) -> int:
        """What the replicas that answered lately work on, and one image beside each; this ingress has its share."""
        settings, now = get_serve_settings(), time.monotonic()
        self._seen = {name: at for name, at in self._seen.items() if now - at < _SEEN_S}
        replicas = max(1, len(self._seen))
        return math.ceil((settings.threads + 1) * replicas / settings.ingresses)

    async def ready(self) -> bool:
        """Whether a replica has loaded the default model, or may be absent until it is needed: a question would start one."""
        if get_serve_settings().sleeps:
            return True
        return await _answer(self._handle.ready.remote())

    async def models(self) -> list[dict[str, Any]]:
        """The models that can be asked for."""
        return await _answer(self._handle.models.remote())

    async def card(self, reference: str) -> dict[str, Any]:
        """Data, licence, scores and needs of one model."""
        return await _answer(self._handle.card.remote(reference))

    async def estimate(self, asked: EstimateRequest) -> dict[str, Any]:
        """What an image would take and give."""
        return await _answer(self._handle.estimate.remote(asked))

    async def metrics(self) -> list[tuple[str, Snapshot]]:
        """What the model replicas and the other ingresses count."""
        here = serve.get_replica_context()
        others = serve.get_deployment_handle(here.deployment, here.app_name)
        found: list[tuple[str, Snapshot]] = []
        for handle in (self._handle, others):
            try:
                async with asyncio.timeout(_GATHER_S):
                    for told in await handle.broadcast("metrics").results_async():
                        found += told
            except (TimeoutError, RayError, RayServeException) as error:
                log.warning("the metrics of %s are missing: %s", handle.deployment_name, error)
        return [pair for pair in found if pair[0] != self.name()]

    async def upscale(self, asked: UpscaleRequest) -> Result:
        """The enlarged image.

        A replica that was told to end (SIGTERM, a node that is drained) is not a fault of its image, which another takes once.
        """
        try:
            result: Result = await _answer(self._handle.upscale.remote(asked))
        except UnavailableError as error:
            if "SIGTERM" not in str(error.__cause__):
                raise
            result = await _answer(self._handle.upscale.remote(asked))
        self._seen[result.replica] = time.monotonic()
        return result


class Counting:
    """The one counter of quotas, which every ingress and every batch asks."""

    def __init__(self) -> None:
        self._quotas = Quotas()
        self._keys = {key.id: key for key in get_serve_settings().keyring()}

    async def take_request(self, key: Key) -> QuotaError | None:
        """See ``Quotas``."""
        return await _error_of(self._quotas.take_request(key))

    async def take_megapixels(self, key: Key, megapixels: float) -> QuotaError | None:
        """See ``Quotas``."""
        return await _error_of(self._quotas.take_megapixels(key, megapixels))

    async def charge(self, key: str, megapixels: float) -> None:
        """See ``Quotas``; a key that was taken away since pays nothing."""
        if key in self._keys:
            await self._quotas.charge(self._keys[key], megapixels)


class SharedQuotas(Quotas):
    """The quotas of an ingress: those of ``Counting``. Keys without limits never ask it."""

    def __init__(self, handle: DeploymentHandle) -> None:
        super().__init__()
        self._handle = handle

    async def take_request(self, key: Key) -> None:
        """See ``Quotas``. Raises UnavailableError while the counter is restarted: nothing goes uncounted."""
        if key.requests_per_minute is not None:
            await self._ask(self._handle.take_request.remote(key))

    async def take_megapixels(self, key: Key, megapixels: float) -> None:
        """See ``Quotas`` and :meth:`take_request`."""
        if key.megapixels_per_minute is not None:
            await self._ask(self._handle.take_megapixels.remote(key, megapixels))

    async def _ask(self, response: Awaitable[QuotaError | None]) -> None:
        try:
            async with asyncio.timeout(_COUNT_S):
                await _answer(response)
        except (TimeoutError, UnavailableError) as error:
            raise UnavailableError("what keys ask for cannot be counted at the moment") from error


@serve.ingress()
class Ingress:
    """The HTTP interface of ``rayscale.serving.api`` over the model replicas."""

    def __init__(
        self, upscaling: DeploymentHandle, counting: DeploymentHandle | None = None
    ) -> None:
        self._backend = Replicas(upscaling)
        self._quotas = None if counting is None else SharedQuotas(counting)
        self._drain = Drain()

    async def metrics(self) -> list[tuple[str, Snapshot]]:
        """What this ingress counts, under its name."""
        return [(self._backend.name(), take_snapshot(self._app.state.service.measured().registry))]

    async def drain(self, grace_s: float) -> None:
        """Take no more requests; return when those in progress are answered, after ``grace_s`` seconds with 503."""
        await self._drain.close(grace_s)

    def __serve_build_asgi_app__(self) -> FastAPI:
        from rayscale.serving.api import create_app
        from rayscale.serving.rayjobs import RayJobs

        settings = get_serve_settings()
        # A warning, so that no level of logging hides that a service is open.
        log.warning("rayscale serves %s; access: %s", settings.model, settings.access())
        counted_by = serve.get_replica_context().app_name if self._quotas else None
        jobs = RayJobs(passed_on(), counted_by)
        self._app = create_app(self._backend, settings, self._drain, jobs, self._quotas)
        return self._app


async def _answer(response: Awaitable[T | RayscaleError]) -> T:
    try:
        answer = await response
    except BackPressureError as error:
        raise OverloadedError(
            "all replicas are busy and the queue is full; send it again after the time in Retry-After"
        ) from error
    except (RayActorError, DeploymentUnavailableError) as error:
        # Not sent to another replica here: an image that kills its replica must not kill them all.
        raise UnavailableError(
            "the replica that worked on this was lost; a new one is being started"
        ) from error
    return raise_error(answer)


async def _error_of(work: Awaitable[None]) -> QuotaError | None:
    try:
        await work
    except QuotaError as error:
        return error
    return None


def _build() -> serve.Application:
    upscaling = serve.deployment(Upscaling).bind()
    if not any(key.counted for key in get_serve_settings().keyring()):
        return serve.deployment(Ingress).bind(upscaling)
    counting = serve.deployment(
        Counting,
        num_replicas=1,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
    )
    return serve.deployment(Ingress).bind(upscaling, counting.bind())


app = _build()
