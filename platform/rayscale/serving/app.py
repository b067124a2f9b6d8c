"""The Ray Serve application: ``serve run serve/config.yaml`` or ``serve deploy serve/config.yaml``.

Two deployments. ``Ingress`` speaks HTTP: it takes many requests at once, refuses from headers alone what
cannot be served, and stays free for probes. ``Upscaling`` holds the models: it takes few requests at once,
has a bounded queue, and is what scales with load and may own a GPU. In one deployment, probes would queue
behind images and every refusal would cost a place among them; the price of two is one more hop, some
milliseconds for an image of megabytes.

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
from rayscale.serving.errors import OverloadedError, UnavailableError
from rayscale.serving.metrics import Snapshot, take_snapshot
from rayscale.serving.settings import get_serve_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from rayscale.serving.requests import EstimateRequest, Result, UpscaleRequest

T = TypeVar("T")

_GATHER_S = 5.0
"""For all replicas to tell what they count."""

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
        """Whether a replica has loaded the default model."""
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


@serve.ingress()
class Ingress:
    """The HTTP interface of ``rayscale.serving.api`` over the model replicas."""

    def __init__(self, upscaling: DeploymentHandle) -> None:
        self._backend = Replicas(upscaling)
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
        self._app = create_app(self._backend, settings, self._drain, RayJobs(passed_on()))
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


app = serve.deployment(Ingress).bind(serve.deployment(Upscaling).bind())
