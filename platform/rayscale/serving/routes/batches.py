"""``/v1/batches``: whole prefixes of object storage, on the workers of the cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from rayscale import strictjson
from rayscale.batch import ONE_BY_ONE, check_options
from rayscale.errors import NotFoundError
from rayscale.serving.accesslog import BATCH_HEADER
from rayscale.serving.batches import ACTIVE, Asked, Batches, Record
from rayscale.serving.errors import UnavailableError
from rayscale.serving.keys import key_of
from rayscale.serving.options import describe_options, parse_options
from rayscale.serving.refusals import documented
from rayscale.serving.requests import check_reference
from rayscale.serving.service import Service

T = TypeVar("T")

_POLL_S, _SILENT_S = 1.0, 15.0
_LIVE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Proxies pass events on as they come; the latter is for nginx."""

BatchId = Annotated[str, Path(pattern=r"^\d{14}-[0-9a-f]{12}$")]


class BatchRequest(BaseModel):
    """What to upscale, and where to."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "source": "s3://images/inbox",
                    "target": "s3://images/larger",
                    "model": "edsr@production",
                    "options": {"scale": 2},
                }
            ]
        },
    )

    source: str = Field(
        max_length=2048,
        description="s3://bucket/prefix below an allowed place; wildcards as in `rayscale batch`",
    )
    target: str = Field(max_length=2048, description="s3://bucket/prefix below an allowed place")
    model: str | None = Field(default=None, max_length=256, description="as of /v1/upscale")
    options: Annotated[
        dict[str, str | int | float | bool], WithJsonSchema(describe_options(without=ONE_BY_ONE))
    ] = Field(default_factory=dict)
    keys: list[str] | None = Field(
        default=None, min_length=1, max_length=100_000, description="of the source, instead of all"
    )
    limit: int | None = Field(default=None, gt=0, description="most images of one attempt")
    overwrite: bool = Field(default=False, description="replace objects that no batch wrote")
    webhook: str | None = Field(default=None, max_length=2048, description="told when it ends")


class Counts(BaseModel):
    """Inputs of the latest attempt."""

    todo: int
    finished: int
    failed: int
    skipped: int
    left: int


class Failure(BaseModel):
    """An input that failed."""

    key: str
    error: str
    message: str


class Batch(BaseModel):
    """A batch as it is at the moment."""

    id: str
    state: str = Field(description="queued, running, done, partial, failed or cancelled")
    attempt: int
    created: float = Field(description="seconds since 1970")
    updated: float
    source: str
    target: str
    model: str
    options: dict[str, Any]
    counts: Counts
    megapixels: float = Field(description="of the sources that are done")
    megapixels_per_second: float | None
    seconds_left: float | None = Field(description="about; null where nothing is known yet")
    manifest: str = Field(description="a row for every input, Parquet")
    failures: list[Failure] = Field(
        description="of the latest attempt, 100 at most; the rest is in the manifest"
    )
    message: str = Field(description="why it failed as a whole")


class BatchList(BaseModel):
    """The latest first."""

    batches: list[Batch]


def router(service: Service, refused: tuple[int, ...]) -> APIRouter:
    """Below ``/v1``."""
    router = APIRouter(prefix="/batches")
    common = (*refused, 404, 422, 429, 500, 503)

    @router.post(
        "",
        status_code=202,
        summary="Start a batch",
        response_model=Batch,
        responses=documented(*common, 403, 408, 409, 411, 413),
    )
    async def submit(
        request: Request,
        asked: BatchRequest,
        idempotency_key: Annotated[
            str | None,
            Header(min_length=1, max_length=200, description="the same key is the same batch"),
        ] = None,
    ) -> Response:
        """The answer comes at once; the batch goes on, whatever becomes of this connection or of the service."""
        batches = _batches(service)
        model = asked.model or service.settings.model
        check_reference(model)
        options = parse_options(asked.options, check_options).to_texts()
        keys = None if asked.keys is None else tuple(asked.keys)
        values = asked.model_dump(exclude={"model", "options", "keys"})
        work = Asked(model=model, options=options, keys=keys, **values)
        await service.quotas.take_megapixels(key_of(request.scope), 0)
        return await _answer(
            202, lambda: batches.submit(work, key_of(request.scope), idempotency_key)
        )

    @router.get("", summary="Your batches", response_model=BatchList, responses=documented(*common))
    async def listed(
        request: Request, limit: Annotated[int, Query(gt=0, le=200)] = 50
    ) -> dict[str, Any]:
        batches = _batches(service)
        found = await asyncio.to_thread(batches.list, key_of(request.scope), limit)
        return {"batches": [show(record) for record in found]}

    @router.get(
        "/{batch}",
        summary="A batch, or with `Accept: text/event-stream` its progress until it ends",
        response_model=Batch,
        responses={
            200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
            **documented(*common),
        },
    )
    async def one(request: Request, batch: BatchId) -> Response:
        key, batches = key_of(request.scope), _batches(service)
        find = lambda: batches.find(batch, key)  # noqa: E731
        if "text/event-stream" in request.headers.get("accept", ""):
            first = await asyncio.to_thread(find)
            return StreamingResponse(_events(first, find), 200, _LIVE, "text/event-stream")
        return await _answer(200, find)

    @router.delete(
        "/{batch}",
        summary="Cancel a batch; what is done stays done",
        response_model=Batch,
        responses=documented(*common),
    )
    async def cancel(request: Request, batch: BatchId) -> Response:
        key, batches = key_of(request.scope), _batches(service)
        return await _answer(200, lambda: batches.cancel(batch, key))

    @router.post(
        "/{batch}/retry",
        status_code=202,
        summary="Work once more on what failed or was left",
        response_model=Batch,
        responses=documented(*common, 403, 408, 409, 411, 413),
    )
    async def retry(request: Request, batch: BatchId) -> Response:
        key, batches = key_of(request.scope), _batches(service)
        await service.quotas.take_megapixels(key, 0)
        return await _answer(202, lambda: batches.retry(batch, key))

    return router


def show(record: Record) -> dict[str, Any]:
    """A record as callers see it."""
    progress, summary = record.progress, record.summary
    ended = record.state not in ACTIVE and bool(summary)
    finished = progress.get("finished", 0)
    seconds, size = progress.get("seconds", 0.0), progress.get("bytes", 0)
    rest = progress.get("bytes_todo", 0) - size
    megapixels = summary["megapixels"] if ended else progress.get("megapixels", 0.0)
    return {
        "id": record.id,
        "state": record.state,
        "attempt": record.attempt,
        "created": record.created,
        "updated": record.updated,
        "source": record.asked.source,
        "target": record.asked.target,
        "model": summary.get("model") or record.asked.model,
        "options": dict(record.asked.options),
        "counts": {
            "todo": progress.get("todo", 0),
            "finished": finished,
            "failed": summary["failed_count"] if ended else progress.get("failed", 0),
            "skipped": summary.get("skipped", 0),
            "left": summary.get("left", 0),
        },
        "megapixels": megapixels,
        "megapixels_per_second": megapixels / seconds if seconds and megapixels else None,
        "seconds_left": seconds * rest / size if record.state == "running" and size else None,
        "manifest": f"{record.asked.target.rstrip('/')}/_rayscale/manifest.parquet",
        "failures": list(summary.get("failed", ())),
        "message": record.message,
    }


def _batches(service: Service) -> Batches:
    if service.batches is None:
        raise NotFoundError(
            "this service takes no batches; whoever runs it sets RAYSCALE_SERVE_BATCHES_URI"
        )
    return service.batches


async def _answer(status: int, work: Callable[[], Record]) -> Response:
    record = await asyncio.to_thread(work)
    return JSONResponse(show(record), status, {BATCH_HEADER: record.id})


async def _events(record: Record, find: Callable[[], Record]) -> AsyncIterator[str]:
    """Server-sent events: ``progress`` at every change, ``end`` with the last state."""
    told, at = "", time.monotonic()
    while True:
        text = strictjson.dumps(show(record))
        ended = record.state not in ACTIVE
        if text != told or ended:
            yield f"event: {'end' if ended else 'progress'}\ndata: {text}\n\n"
            told, at = text, time.monotonic()
        elif time.monotonic() - at > _SILENT_S:
            yield ": still at work\n\n"
            at = time.monotonic()
        if ended:
            return
        await asyncio.sleep(_POLL_S)
        try:
            record = await asyncio.to_thread(find)
        except UnavailableError:
            continue
