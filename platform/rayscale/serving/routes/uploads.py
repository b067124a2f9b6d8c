"""``/v1/uploads`` and ``/v1/files``: sources over the limit of a body, and results, without keys of the object storage."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from rayscale.errors import NotFoundError
from rayscale.serving.keys import key_of
from rayscale.serving.refusals import documented
from rayscale.serving.service import Service
from rayscale.serving.uploads import MOST_PARTS, PART_BYTES, Uploads

UploadId = Annotated[str, Path(pattern=r"^[0-9a-f]{24}$")]


class UploadRequest(BaseModel):
    """A file that is to come."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "scene.tif", "bytes": 2**31}]}
    )

    name: str = Field(min_length=1, max_length=200, description="without folders")
    bytes: int = Field(gt=0, le=PART_BYTES * MOST_PARTS)


class UploadStarted(BaseModel):
    """Where to PUT the parts, in their order: all of ``part_bytes`` but the last."""

    id: str
    part_bytes: int
    addresses: list[str]
    place: str = Field(description="yours: batches may write below it, and /v1/files reads there")


class Part(BaseModel):
    """A part that was sent."""

    number: int = Field(gt=0, le=MOST_PARTS)
    etag: str = Field(min_length=1, max_length=200, description="of the answer to its PUT")


class UploadParts(BaseModel):
    """All parts."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"parts": [{"number": 1, "etag": "x"}]}]}
    )

    parts: list[Part] = Field(min_length=1, max_length=MOST_PARTS)


class Uploaded(BaseModel):
    """What a batch may have as its source."""

    source: str


def router(service: Service, refused: tuple[int, ...]) -> APIRouter:
    """Below ``/v1``."""
    router = APIRouter()
    common = (*refused, 404, 422, 429, 500, 503)

    @router.post(
        "/uploads",
        status_code=201,
        summary="Begin an upload in parts",
        response_model=UploadStarted,
        responses=documented(*common, 408, 411, 413),
    )
    async def begin(request: Request, asked: UploadRequest) -> dict[str, Any]:
        """The parts go straight to object storage: `curl -T part-1 ADDRESS -D -`, whose answer has the ETag."""
        uploads, key = _uploads(service), key_of(request.scope)
        upload, addresses = await asyncio.to_thread(uploads.begin, asked.name, asked.bytes, key)
        return {
            "id": upload.id,
            "part_bytes": upload.part_bytes,
            "addresses": addresses,
            "place": uploads.place(key),
        }

    @router.post(
        "/uploads/{upload}",
        summary="Complete an upload",
        response_model=Uploaded,
        responses=documented(*common, 408, 411, 413),
    )
    async def complete(request: Request, upload: UploadId, asked: UploadParts) -> dict[str, str]:
        """The answer names the source for a batch; its target may be anywhere below `place`."""
        uploads, key = _uploads(service), key_of(request.scope)
        etags = {part.number: part.etag for part in asked.parts}
        return {"source": await asyncio.to_thread(uploads.complete, upload, etags, key)}

    @router.get(
        "/files",
        summary="Fetch a file below your place",
        status_code=307,
        response_class=Response,
        responses={
            307: {"description": "To the object storage, for six hours."},
            **documented(*common),
        },
    )
    async def fetch(
        request: Request, uri: Annotated[str, Query(max_length=2048, description="s3://...")]
    ) -> Response:
        """`curl -L` follows, without the key."""
        uploads, key = _uploads(service), key_of(request.scope)
        return RedirectResponse(await asyncio.to_thread(uploads.address, uri, key), 307)

    return router


def _uploads(service: Service) -> Uploads:
    if service.batches is None:
        raise NotFoundError(
            "this service takes no uploads; whoever runs it sets RAYSCALE_SERVE_BATCHES_URI"
        )
    return Uploads(service.batches.records.store)
