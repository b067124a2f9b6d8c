"""The HTTP application: routes, and what stands before them. No Ray and no models.

What does the work is a :class:`Backend`: model replicas reached through Ray Serve (``rayscale.serving.app``), or an
``Engine`` in the same process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.security import HTTPBearer
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayscale import __version__
from rayscale.errors import RayscaleError
from rayscale.serving.accesslog import AccessLog
from rayscale.serving.backend import Backend
from rayscale.serving.batches import Batches, Jobs, Records
from rayscale.serving.drain import Door, Drain
from rayscale.serving.errors import BadParameterError
from rayscale.serving.headers import RESULT_HEADERS
from rayscale.serving.keys import Key, KeyCheck, key_of
from rayscale.serving.limits import BodyLimit
from rayscale.serving.options import parameters_of
from rayscale.serving.quotas import Quotas
from rayscale.serving.refusals import Guard
from rayscale.serving.requestid import RequestId
from rayscale.serving.routes import (
    batches,
    estimate,
    inference,
    metrics,
    models,
    pages,
    probes,
    uploads,
    upscale,
    views,
)
from rayscale.serving.service import Service
from rayscale.serving.settings import ServeSettings
from rayscale.settings import get_settings
from rayscale.storage import connect

log = logging.getLogger("ray.serve")

_WATCH_S = 10.0


def create_app(
    backend: Backend,
    settings: ServeSettings,
    drain: Drain | None = None,
    jobs: Jobs | None = None,
    quotas: Quotas | None = None,
) -> FastAPI:
    """The application over ``backend``, with all limits in front of it; ``drain`` ends it, ``jobs`` run batches, and
    ``quotas`` count for all ingresses together.
    """
    app = FastAPI(
        title="rayscale",
        version=__version__,
        summary="Super-resolution of images: send one, get it back larger.",
        description=_description(settings),
        docs_url=None,  # FastAPI's page loads scripts from elsewhere; ours is page/docs.html
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy with a path of its own it would lead elsewhere
        lifespan=_watch_batches,
    )
    app.state.service = service = Service(
        backend, settings, _batches(settings, jobs), quotas or Quotas()
    )
    app.include_router(pages.router())
    app.include_router(probes.router(service))
    app.include_router(_version_1(service))
    keys = settings.keyring()
    refused = (401,) * bool(keys)
    app.include_router(inference.router(service, refused), dependencies=[Depends(_check_query)])
    app.include_router(metrics.router(service, refused))
    service.refusals.install(app)
    _add_limits(app, service, keys, drain or Drain())
    return app


@asynccontextmanager
async def _watch_batches(app: FastAPI) -> AsyncIterator[None]:
    """Batches are looked after as long as the application runs, whether or not anybody asks for them."""
    known: Batches | None = app.state.service.batches

    async def watch(batches: Batches) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                await asyncio.to_thread(batches.watch)
            except RayscaleError as error:
                log.warning("the batches cannot be looked after: %s", error)

    watching = None if known is None else asyncio.create_task(watch(known))
    yield
    if watching is not None:
        watching.cancel()


def _add_limits(app: FastAPI, service: Service, keys: tuple[Key, ...], drain: Drain) -> None:
    """Put in front of the application whatever may refuse a request, count it or give it an id."""
    settings = service.settings
    # The last one added is the outermost: errors are caught around the key, the key is asked before a
    # body is admitted.
    paths = app.openapi()["paths"]
    app.add_middleware(
        BodyLimit,
        gauge=service.metrics.held,
        max_bytes=get_settings().max_input_bytes,
        max_form_bytes=settings.max_form_bytes,
        max_pending_bytes=settings.max_pending_bytes,
        max_arriving=settings.max_arriving,
        peer_share=settings.peer_share,
        timeout_s=settings.body_timeout_s,
        rate=settings.body_rate,
        idle_s=settings.body_idle_s,
    )
    app.add_middleware(RequestCount, quotas=service.quotas)
    app.add_middleware(KeyCheck, keys=keys)
    app.add_middleware(Door, drain=drain)
    app.add_middleware(Guard, refusals=service.refusals)
    app.add_middleware(Heads)
    app.add_middleware(Prefix, prefix=settings.path_prefix)
    if settings.origins():
        # Outside of the keys: a browser asks for permission without one, and reads refusals too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins(),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "Authorization",
                "X-API-Key",
                "Content-Type",
                "X-Request-Id",
                "Idempotency-Key",
            ],
            expose_headers=[*RESULT_HEADERS, "Retry-After"],
        )
    app.add_middleware(
        AccessLog,
        metrics=service.metrics,
        traces=service.traces,
        paths=paths,
        lines=settings.access_log,
    )
    app.add_middleware(RequestId)


def _batches(settings: ServeSettings, jobs: Jobs | None) -> Batches | None:
    if jobs is None or not settings.batches_uri:
        return None
    return Batches(Records(connect(settings.batches_uri)), jobs, settings)


class Prefix:
    """Puts the path of a proxy before a path from which the proxy took it: routes know it as ``root_path``."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if self.prefix and scope["type"] == "http":
            if path == self.prefix:
                path += "/"
            elif not path.startswith(f"{self.prefix}/"):
                path = self.prefix + path
            scope = {**scope, "path": path, "root_path": self.prefix}
        await self.app(scope, receive, send)


class RequestCount:
    """Counts the requests of a key that ask for work."""

    def __init__(self, app: ASGIApp, quotas: Quotas) -> None:
        self.app = app
        self.quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            await self.quotas.take_request(key_of(scope))
        await self.app(scope, receive, send)


class Heads:
    """Answers HEAD wherever GET is answered: the same headers, no body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, without_body)


def _version_1(service: Service) -> APIRouter:
    closed = bool(service.settings.keyring())
    keyed = [Depends(HTTPBearer(auto_error=False, description="one of the keys"))] * closed
    router = APIRouter(prefix="/v1", dependencies=[*keyed, Depends(_check_query)], tags=["v1"])
    refused = (401,) if closed else ()
    for module in (upscale, estimate, models, batches, uploads, views):
        router.include_router(module.router(service, refused))
    return router


async def _check_query(request: Request) -> None:
    """Every parameter is known and given once: a misspelt one must not be taken for its default."""
    known = list(parameters_of(request.scope["route"].dependant))
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise BadParameterError(f"{name[:80]!r} is not a parameter of this path; {takes}")
        if given.count(name) > 1:
            raise BadParameterError(f"{name} is given {given.count(name)} times; give it once")


def _description(settings: ServeSettings) -> str:
    limits = get_settings()
    return (
        f"Limits: {limits.max_input_bytes} bytes of body with Content-Length, "
        f"{limits.max_input_pixels} pixels in, {limits.max_output_pixels} pixels out, "
        f"{settings.request_timeout_s:g} s. Errors read "
        '`{"error": {"status", "code", "message", "limit", "hint", "request_id"}}`.'
    )
