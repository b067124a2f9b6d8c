"""The HTTP interface: paths, parameters, headers, documentation. No Ray and no models.

What does the work is a :class:`Backend`: model replicas reached through Ray Serve (``rayscale.serving.app``), or an
``Engine`` in the same process.
"""

from __future__ import annotations

import asyncio
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayscale import __version__, strictjson
from rayscale.errors import ConfigError, UnsupportedError
from rayscale.imaging import MIME, probe
from rayscale.options import Options
from rayscale.serving.drain import Door, Drain
from rayscale.serving.errors import (
    BadParameterError,
    DeadlineError,
    Guard,
    OverloadedError,
    UnavailableError,
    documented,
    install,
)
from rayscale.serving.jobs import Job, Result, check_reference, check_size
from rayscale.serving.keys import KeyCheck
from rayscale.serving.limits import BodyLimit
from rayscale.serving.options import parameters_of, query_options
from rayscale.serving.settings import ServeSettings
from rayscale.settings import get_settings

_NOTES, _NOTE_CHARS = 8, 400  # of the notes in a header, which proxies hold to 8 KiB

_PROBE_TIMEOUT_S = 2.0
_READY_FOR_S = 60.0


class Backend(Protocol):
    """What answers: its errors are those of ``rayscale.serving.errors.STATUS``."""

    async def ready(self) -> bool:
        """Whether the default model is loaded."""

    async def models(self) -> list[dict[str, Any]]:
        """The models that can be asked for."""

    async def upscale(self, job: Job) -> Result:
        """The enlarged image; cancelling the task gives the work up."""


class Model(BaseModel):
    """One model that ``model=`` may name."""

    model_config = ConfigDict(extra="allow")

    reference: str = Field(description="always means exactly this model")
    name: str
    version: str | None = Field(description="null for a built-in")
    aliases: list[str]
    weights_sha256: str = Field(description="`none` for an interpolation, which has no weights")
    system: str
    scales: list[int]
    scale_range: tuple[float, float] | None = Field(
        default=None,
        description="every scale above the first and up to the second is served too",
    )
    channels: int | None = Field(description="null: any number")


class Models(BaseModel):
    """The answer of ``GET /v1/models``."""

    default: str = Field(description="what is used when `model` is left out")
    models: list[Model]


class State(BaseModel):
    """The answer of a probe."""

    status: str


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


def create_app(backend: Backend, settings: ServeSettings, drain: Drain | None = None) -> FastAPI:
    """The application over ``backend``, with all limits in front of it; ``drain`` ends it."""
    app = FastAPI(
        title="rayscale",
        version=__version__,
        summary="Super-resolution of images: send one, get it back larger.",
        description=_description(settings),
        docs_url=None,  # FastAPI's page loads scripts from elsewhere; ours is docs.html
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy with a path of its own it would lead elsewhere
    )
    readiness = Readiness(backend)
    app.include_router(_pages())
    app.include_router(_probes(readiness))
    app.include_router(_version_1(backend, readiness, settings))
    install(app, settings.retry_after_s)
    # The last one added is the outermost: errors are caught around the key, the key is asked before a
    # body is admitted.
    app.add_middleware(
        BodyLimit,
        max_bytes=get_settings().max_input_bytes,
        max_pending_bytes=settings.max_pending_bytes,
        max_arriving=settings.max_arriving,
        peer_share=settings.peer_share,
        timeout_s=settings.body_timeout_s,
        rate=settings.body_rate,
        idle_s=settings.body_idle_s,
    )
    app.add_middleware(KeyCheck, hashes=settings.key_hashes())
    app.add_middleware(Door, drain=drain or Drain())
    app.add_middleware(Guard, retry_after_s=settings.retry_after_s)
    app.add_middleware(Heads)
    if settings.origins():
        # Outside of the keys: a browser asks for permission without one, and reads refusals too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins(),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type"],
            expose_headers=[*_RESULT_HEADERS, "Retry-After"],
        )
    return app


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


def _version_1(backend: Backend, readiness: Readiness, settings: ServeSettings) -> APIRouter:
    closed = bool(settings.key_hashes())
    keyed = [Depends(HTTPBearer(auto_error=False, description="one of the keys"))] * closed
    router = APIRouter(prefix="/v1", dependencies=[*keyed, Depends(_check_query)], tags=["v1"])
    refused = (401,) if closed else ()
    asked = Depends(query_options(Options(precision=settings.precision)))

    @router.post(
        "/upscale",
        summary="Enlarge one image",
        response_class=Response,
        responses={
            200: {
                "description": "The image, larger, in the container and depth it came in.",
                "content": _images(),
                "headers": _RESULT_HEADERS,
            },
            **documented(*refused, 403, 404, 408, 411, 413, 415, 422, 429, 500, 503, 504, 507),
        },
        openapi_extra={"requestBody": {"required": True, "content": _images()}},
    )
    async def upscale(
        request: Request,
        options: Options = asked,
        model: Annotated[
            str | None,
            Query(
                max_length=256,
                description="name, name@alias or name/version (see /v1/models), or a system bundled for the scale",
            ),
        ] = None,
    ) -> Response:
        """Send the bytes of an image file (PNG, JPEG, WebP, TIFF, DICOM, NIfTI) as the body, for example

        `curl --data-binary @small.png -o large.png 'http://HOST/v1/upscale?scale=2'`
        """
        if model is not None:
            check_reference(model)
        _check_options(options)
        _check_form(request.headers)
        data = await request.body()
        # By the header alone, before the image takes a place in the queue of the model replicas.
        check_size(await asyncio.to_thread(probe, data), options.scale or 1)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(settings.request_timeout_s):
                result = await backend.upscale(Job(data, model, options))
        except TimeoutError:
            raise DeadlineError(
                f"the image was not done within {settings.request_timeout_s:g} s "
                "(RAYSCALE_SERVE_REQUEST_TIMEOUT_S); send it in parts or use the batch job"
            ) from None
        readiness.note()
        total = time.perf_counter() - began
        return Response(
            result.data, media_type=MIME[result.container], headers=_result_headers(result, total)
        )

    @router.get(
        "/models",
        summary="The models that can be asked for",
        response_model=Models,
        responses=documented(*refused, 429, 500, 503),
    )
    async def models() -> dict[str, Any]:
        return {"default": settings.model, "models": await backend.models()}

    return router


def _probes(readiness: Readiness) -> APIRouter:
    router = APIRouter(tags=["probes"])

    @router.get("/healthz", summary="Alive", response_model=State)
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get(
        "/readyz",
        summary="Ready: the default model is loaded",
        response_model=State,
        responses={503: {"model": State, "description": "The default model is not loaded yet."}},
    )
    async def readyz() -> Response:
        ready = await readiness()
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    return router


def _pages() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    page = Path(__file__).with_name("docs.html").read_text(encoding="utf-8")

    # No redirect: nothing here knows under which path a proxy shows the service.
    @router.get("/")
    @router.get("/docs")
    async def docs() -> HTMLResponse:
        policy = "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob:"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    return router


def _check_query(request: Request) -> None:
    """Every parameter is known and given once: a misspelt one must not be taken for its default."""
    known = list(parameters_of(request.scope["route"].dependant))
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise BadParameterError(f"{name[:80]!r} is not a parameter of this path; {takes}")
        if given.count(name) > 1:
            raise BadParameterError(f"{name} is given {given.count(name)} times; give it once")


def _check_options(options: Options) -> None:
    """Refuse what an answer of one image has no place for."""
    try:
        options.refuse(
            "uncertainty",
            "an answer holds one image; use the command line, which writes a second file",
        )
    except ConfigError as error:
        raise BadParameterError(str(error)) from None


def _check_form(headers: Mapping[str, str]) -> None:
    """The body is the file itself: neither a form nor compressed once more."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedError(
            "send the image without Content-Encoding; its container compresses it"
        )
    if headers.get("content-type", "").startswith("multipart/"):
        raise UnsupportedError(
            "send the bytes of the image as the body (curl --data-binary @file), not as a form"
        )


def _result_headers(result: Result, total: float) -> dict[str, str]:
    stages = {**result.seconds, "total": total}
    headers = {
        "X-Rayscale-Model": result.model,
        "X-Rayscale-Weights-Sha256": result.digest,
        "X-Rayscale-Scale": str(result.scale),
        "Server-Timing": ", ".join(f"{k};dur={1000 * v:.1f}" for k, v in stages.items()),
    }
    if result.notes:
        notes = [textwrap.shorten(note, _NOTE_CHARS) for note in result.notes[:_NOTES]]
        headers["X-Rayscale-Notes"] = strictjson.dumps(
            notes
        )  # ASCII, whatever a file calls its bands
    return headers


_RESULT_HEADERS = {
    name: {"schema": {"type": kind}, "description": text}
    for name, kind, text in (
        ("X-Rayscale-Model", "string", "the exact model: name/version"),
        (
            "X-Rayscale-Weights-Sha256",
            "string",
            "sha256 of its weights, or `built-in:NAME` for an interpolation",
        ),
        ("X-Rayscale-Scale", "number", "the scale that was used"),
        (
            "X-Rayscale-Notes",
            "string",
            "what there is to know of how the image was read, a JSON list of sentences; absent when nothing",
        ),
        ("Server-Timing", "string", "milliseconds of decode, upscale, encode, and in total"),
    )
}


def _images() -> dict[str, Any]:
    return {mime: {"schema": {"type": "string", "format": "binary"}} for mime in MIME.values()}


def _description(settings: ServeSettings) -> str:
    limits = get_settings()
    return (
        f"Limits: {limits.max_input_bytes} bytes of body with Content-Length, "
        f"{limits.max_input_pixels} pixels in, {limits.max_output_pixels} pixels out, "
        f"{settings.request_timeout_s:g} s. Errors read "
        '`{"error": {"code": ..., "message": ...}}`.'
    )
