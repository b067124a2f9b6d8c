"""``POST /v1/estimate``: what an image would take and give, from its header alone."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging import MIME, Header, probe
from rayscale.options import Options
from rayscale.serving.bodies import image_bodies
from rayscale.serving.keys import key_of
from rayscale.serving.options import query_options
from rayscale.serving.refusals import describe_invalid, documented
from rayscale.serving.requests import EstimateRequest, check_reference, check_size
from rayscale.serving.routes.upscale import ModelQuery, check_options
from rayscale.serving.service import Service

_LARGEST = 1 << 31


class Picture(BaseModel):
    """The header of a file, in words."""

    model_config = ConfigDict(extra="forbid", strict=True)

    container: str = Field(
        description=f"one of {', '.join(MIME)}", json_schema_extra={"enum": list(MIME)}
    )
    width: int = Field(gt=0, lt=_LARGEST)
    height: int = Field(gt=0, lt=_LARGEST)
    channels: int = Field(default=3, gt=0, lt=10_000, description="without alpha")
    bits: int = Field(default=8, ge=1, le=64)
    slices: int = Field(default=1, gt=0, lt=_LARGEST)
    alpha: bool = False
    bytes: int | None = Field(default=None, gt=0, description="of the whole file")


class Estimate(BaseModel):
    """What an image would take and give."""

    model: str
    weights_sha256: str
    scale: float
    width: int = Field(description="of the output")
    height: int
    seconds: float = Field(description="of work, without waiting")
    memory_bytes: int = Field(description="that a replica takes for it at the peak")
    output_bytes: int = Field(description="of the file; of its pixels where nothing else is known")
    estimated_from: str


_PICTURE = {
    "application/json": {
        "schema": Picture.model_json_schema(),
        "example": {"container": "png", "width": 1024, "height": 768, "bytes": 1_400_000},
    }
}


def router(service: Service, refused: tuple[int, ...]) -> APIRouter:
    """Below ``/v1``."""
    router = APIRouter()
    asked = Depends(query_options(Options(precision=service.settings.precision)))

    @router.post(
        "/estimate",
        summary="What an image would take",
        response_model=Estimate,
        responses=documented(*refused, 403, 404, 408, 411, 413, 415, 422, 429, 500, 503),
        openapi_extra={"requestBody": {"required": True, "content": _PICTURE | image_bodies()}},
    )
    async def estimate(
        request: Request, options: Options = asked, model: ModelQuery = None
    ) -> dict[str, Any]:
        """Send a file, or its first 64 KiB, or its header in words. It is refused as the image would be:

        `head -c 65536 scene.png | curl --data-binary @- 'http://HOST/v1/estimate?scale=4'`
        """
        if model is not None:
            check_reference(model)
        key_of(request.scope).check_model(model or service.settings.model)
        check_options(options)
        data = await request.body()
        if request.headers.get("content-type", "").startswith("application/json"):
            header, size = _read(data)
        else:
            header, size = await asyncio.to_thread(_probe, data), None
        check_size(header, options.scale or 1)
        return await service.backend.estimate(EstimateRequest(header, size, model, options))

    return router


def _read(data: bytes) -> tuple[Header, int | None]:
    try:
        picture = Picture.model_validate_json(data)
    except ValidationError as error:
        raise InputError(describe_invalid(error.errors())) from None
    if picture.container not in MIME:
        raise UnsupportedError(
            f"container must be one of {', '.join(MIME)}, not {picture.container[:40]!r}"
        )
    values = picture.model_dump(exclude={"bytes"})
    return Header(**values), picture.bytes


def _probe(data: bytes) -> Header:
    try:
        return probe(data)
    except (TooLargeError, UnsupportedError):
        raise
    except InputError as error:
        raise InputError(
            f"{error}; where the header is not at the start of the file, send more of it, or the header as JSON"
        ) from None
