"""``POST /v1/upscale``: an image comes in, its enlargement goes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from rayscale.errors import ConfigError, UnsupportedError
from rayscale.imaging import MIME
from rayscale.options import Options
from rayscale.serving.errors import BadParameterError
from rayscale.serving.headers import RESULT_HEADERS, result_headers
from rayscale.serving.jobs import Job, check_reference
from rayscale.serving.options import query_options
from rayscale.serving.refusals import documented
from rayscale.serving.service import Service

ModelQuery = Annotated[
    str | None,
    Query(
        max_length=256,
        description="name, name@alias or name/version (see /v1/models), or a system bundled for the scale",
    ),
]


def router(service: Service, refused: tuple[int, ...]) -> APIRouter:
    """Below ``/v1``."""
    router = APIRouter()
    asked = Depends(query_options(Options(precision=service.settings.precision)))

    @router.post(
        "/upscale",
        summary="Enlarge one image",
        response_class=Response,
        responses={
            200: {
                "description": "The image, larger, in the container and depth it came in.",
                "content": _images(),
                "headers": RESULT_HEADERS,
            },
            **documented(*refused, 403, 404, 408, 411, 413, 415, 422, 429, 500, 503, 504, 507),
        },
        openapi_extra={"requestBody": {"required": True, "content": _images()}},
    )
    async def upscale(
        request: Request, options: Options = asked, model: ModelQuery = None
    ) -> Response:
        """Send the bytes of an image file (PNG, JPEG, WebP, TIFF, DICOM, NIfTI) as the body, for example

        `curl --data-binary @small.png -o large.png 'http://HOST/v1/upscale?scale=2'`
        """
        if model is not None:
            check_reference(model)
        check_options(options)
        _check_form(request.headers)
        result = await service.upscale(Job(await request.body(), model, options))
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


def _images() -> dict[str, Any]:
    return {mime: {"schema": {"type": "string", "format": "binary"}} for mime in MIME.values()}
