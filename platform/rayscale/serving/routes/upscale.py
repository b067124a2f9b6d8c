"""``POST /v1/upscale``: an image comes in, its enlargement goes out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from rayscale.errors import ConfigError, UnsupportedError
from rayscale.imaging import MIME
from rayscale.options import Options
from rayscale.registry.reference import PATTERN
from rayscale.serving.bodies import image_bodies
from rayscale.serving.errors import BadParameterError, OverloadedError, UnavailableError
from rayscale.serving.forms import is_form, read_form
from rayscale.serving.headers import RESULT_HEADERS, result_headers
from rayscale.serving.options import query_options
from rayscale.serving.parcels import Entry, larger_name, parcel_for
from rayscale.serving.refusals import documented
from rayscale.serving.requests import Result, UpscaleRequest, check_reference
from rayscale.serving.service import Caller, Service
from rayscale.settings import get_settings

ModelQuery = Annotated[
    str | None,
    Query(
        max_length=256,
        description="name, name@alias or name/version (see /v1/models), or a system bundled for the scale",
        json_schema_extra={
            "pattern": PATTERN
        },  # told, not asked: an address is refused by its own name
    ),
]


def router(service: Service, refused: tuple[int, ...]) -> APIRouter:
    """Below ``/v1``."""
    router = APIRouter()
    asked = Depends(query_options(Options(precision=service.settings.precision)))

    @router.post(
        "/upscale",
        summary="Enlarge an image, or several",
        response_class=Response,
        responses={
            200: {
                "description": "The image, larger, in the container and depth it came in. To a form, a part or a file of an "
                "archive for each image: its enlargement, or its refusal as JSON.",
                "content": image_bodies() | _PARCELS,
                "headers": RESULT_HEADERS,
            },
            **documented(*refused, 403, 404, 408, 411, 413, 415, 422, 429, 500, 503, 504, 507),
        },
        openapi_extra={"requestBody": {"required": True, "content": image_bodies() | _FORM}},
    )
    async def upscale(
        request: Request, options: Options = asked, model: ModelQuery = None
    ) -> Response:
        """Send the bytes of an image file (PNG, JPEG, WebP, TIFF, DICOM, NIfTI) as the body, for example

        `curl --data-binary @small.png -o large.png 'http://HOST/v1/upscale?scale=2'`

        Or several of them as a form. The answer is `multipart/mixed`, or with `Accept: application/zip` an archive:

        `curl -F a=@a.png -F b=@b.png -H 'Accept: application/zip' -o large.zip 'http://HOST/v1/upscale?scale=2'`
        """
        if model is not None:
            check_reference(model)
        check_options(options)
        _check_encoding(request.headers)
        service.check_room(Caller.of(request))
        if is_form(request.headers.get("content-type", "")):
            return await _answer_form(service, request, options, model)
        result = await service.upscale(
            UpscaleRequest(await request.body(), model, options), Caller.of(request)
        )
        return Response(
            result.data, media_type=MIME[result.container], headers=result_headers(result)
        )

    return router


def check_options(options: Options) -> None:
    """Refuse what an answer of one image has no place for."""
    try:
        options.refuse(
            "uncertainty",
            "an answer holds one image; use the command line, which writes a second file",
        )
    except ConfigError as error:
        raise BadParameterError(str(error)) from None


async def _answer_form(
    service: Service, request: Request, options: Options, model: str | None
) -> Response:
    """The results of several images as they come; none of them is kept here."""
    parts = read_form(
        await request.body(),
        request.headers["content-type"],
        most=service.settings.max_parts,
        max_bytes=get_settings().max_input_bytes,
    )
    parcel = parcel_for(request.headers.get("accept", ""))
    requests = (UpscaleRequest(bytes(part.data), model, options) for part in parts)
    outcomes = service.upscale_many(requests, Caller.of(request))
    first = [await anext(outcomes)]
    if isinstance(first[0], OverloadedError | UnavailableError):
        await outcomes.aclose()
        raise first[0]

    async def entries() -> AsyncIterator[bytes]:
        for number, part in enumerate(parts, 1):
            outcome = first.pop() if first else await anext(outcomes)
            name = larger_name(part.name, number, options.format)
            told = outcome if isinstance(outcome, Result) else service.refusals.of(outcome)
            data = parcel.add(Entry(number, name, told))
            del outcome, told  # nothing of it is held while the next one is awaited
            yield data
        yield parcel.end()

    return StreamingResponse(entries(), media_type=parcel.media_type)


def _check_encoding(headers: Mapping[str, str]) -> None:
    """The body is not compressed once more."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedError(
            "send the image without Content-Encoding; its container compresses it"
        )


_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"image": {"type": "string", "format": "binary"}},
            "additionalProperties": {"type": "string", "format": "binary"},
            "description": "one file or more, under any names; options stand in the query",
        },
        "example": {"image": "the bytes of a file, with its name"},
    }
}
_PARCELS = {
    kind: {"schema": {"type": "string", "format": "binary"}}
    for kind in ("multipart/mixed", "application/zip")
}
