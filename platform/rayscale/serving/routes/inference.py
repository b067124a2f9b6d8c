"""``/v2``: the Open Inference Protocol, which clients of KServe and Triton speak. Images are tensors here."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request, Response

from rayscale import __version__, strictjson
from rayscale.errors import UnsupportedError
from rayscale.imaging import Image, read_image, write_image
from rayscale.options import Options
from rayscale.registry.reference import NAME_PATTERN, PATTERN
from rayscale.serving.bodies import as_uri
from rayscale.serving.errors import UnavailableError
from rayscale.serving.keys import key_of
from rayscale.serving.options import parse_options
from rayscale.serving.refusals import documented_inference
from rayscale.serving.requests import UpscaleRequest, check_reference
from rayscale.serving.routes.upscale import check_options
from rayscale.serving.service import Caller, Service
from rayscale.serving.tensors import (
    DATATYPES,
    HEADER,
    INPUT,
    OUTPUT,
    Inference,
    read_inference,
    render_inference,
)
from rayscale.settings import get_settings

ModelName = Annotated[
    str,
    Path(
        max_length=256,
        description="name or name@alias, see /v1/models",
        json_schema_extra={"pattern": PATTERN.replace("|/([1-9][0-9]{0,8})", "")},
    ),
]
VersionedName = Annotated[
    str,
    Path(
        max_length=256,
        description="name, without an alias",
        json_schema_extra={"pattern": NAME_PATTERN},
    ),
]
Version = Annotated[
    str,
    Path(
        max_length=20,
        description="of a registered model",
        json_schema_extra={"pattern": "^[1-9][0-9]{0,8}$"},
    ),
]

_JSON_SHARE = 8
"""JSON of a tensor takes many times its bytes while it is read, so it may have this share of a body."""

_EXAMPLE = {
    "id": "1",
    "parameters": {"scale": 2},
    "inputs": [{"name": INPUT, "shape": [2, 2, 1], "datatype": "UINT8", "data": [0, 85, 170, 255]}],
}

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"const": INPUT},
        "shape": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "minItems": 3,
            "maxItems": 4,
        },
        "datatype": {"enum": list(DATATYPES)},
        "data": {"type": "array", "description": "whole numbers, nested or flat"},
        "parameters": {
            "type": "object",
            "description": "binary_data_size of what follows the JSON",
        },
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": ["object", "null"], "description": "options of /v1/upscale"},
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array"},
    },
}
_HEAD = strictjson.dumps(
    {
        "inputs": [
            {
                "name": INPUT,
                "shape": [2, 2, 1],
                "datatype": "UINT8",
                "parameters": {"binary_data_size": 4},
            }
        ]
    }
)
_BINARY = {
    "schema": {"type": "string", "format": "binary"},
    "examples": {
        "binary": {
            "summary": f"JSON, whose length is in the header {HEADER} (here {len(_HEAD)}), and the bytes of the tensor",
            "externalValue": as_uri("application/octet-stream", f"{_HEAD}0123".encode()),
        }
    },
}


def router(service: Service, refused: tuple[int, ...]) -> APIRouter:
    """At the top; each path of a model also with ``/versions/{version}``."""
    router = APIRouter(prefix="/v2", tags=["v2"])
    looked = documented_inference(*refused, 403, 404, 422, 429, 500, 503)

    @router.get("", summary="The server", responses=documented_inference(*refused, 500))
    async def server() -> dict[str, Any]:
        return {"name": "rayscale", "version": __version__, "extensions": ["binary_tensor_data"]}

    @router.get("/health/live", summary="Alive")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", summary="Ready", responses=documented_inference(503))
    async def ready() -> dict[str, bool]:
        if not await service.readiness():
            raise UnavailableError("the default model is not loaded yet")
        return {"ready": True}

    async def find(name: str, version: str | None = None) -> dict[str, Any]:
        reference = _reference(name, version)
        check_reference(reference)
        return await service.backend.card(reference)

    @router.get("/models/{name}", summary="Inputs and outputs of a model", responses=looked)
    async def metadata(name: ModelName) -> dict[str, Any]:
        return _describe(await find(name))

    @router.get(
        "/models/{name}/versions/{version}", summary="The same of a version", responses=looked
    )
    async def metadata_of(name: VersionedName, version: Version) -> dict[str, Any]:
        return _describe(await find(name, version))

    @router.get("/models/{name}/ready", summary="Whether there is a model", responses=looked)
    async def model_ready(name: ModelName) -> dict[str, Any]:
        return {"name": (await find(name))["name"], "ready": True}

    @router.get(
        "/models/{name}/versions/{version}/ready",
        summary="Whether there is a version",
        responses=looked,
    )
    async def version_ready(name: VersionedName, version: Version) -> dict[str, Any]:
        return {"name": (await find(name, version))["name"], "ready": True}

    about: dict[str, Any] = {
        "responses": {
            200: {"content": {"application/json": {}, "application/octet-stream": {}}},
            **documented_inference(
                *refused, 403, 404, 408, 411, 413, 415, 422, 429, 500, 503, 504, 507
            ),
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": _REQUEST, "example": _EXAMPLE},
                    "application/octet-stream": _BINARY,
                },
            }
        },
    }

    @router.post("/models/{name}/infer", summary="Enlarge tensors", **about)
    async def infer(request: Request, name: ModelName) -> Response:
        """The parameters of the request are the options of `/v1/upscale`, such as `scale`."""
        return await _infer(service, request, _reference(name, None))

    @router.post(
        "/models/{name}/versions/{version}/infer", summary="Enlarge tensors by a version", **about
    )
    async def infer_by(request: Request, name: VersionedName, version: Version) -> Response:
        """The same by a version of a registered model."""
        return await _infer(service, request, _reference(name, version))

    return router


def _reference(name: str, version: str | None) -> str:
    return f"{name}/{version}" if version else name


def _describe(card: dict[str, Any]) -> dict[str, Any]:
    channels = card["channels"] or -1
    tensor = {"datatype": "UINT8", "shape": [-1, -1, channels]}
    return {
        "name": card["name"],
        "versions": [card["version"]] if card["version"] else [],
        "platform": f"rayscale_{card['system']}",
        "inputs": [{"name": INPUT, **tensor}],
        "outputs": [{"name": OUTPUT, **tensor}],
        "parameters": {"datatypes": ",".join(DATATYPES), "reference": card["reference"]},
    }


async def _infer(service: Service, request: Request, reference: str) -> Response:
    check_reference(reference)
    key_of(request.scope).check_model(reference)
    settings = service.settings
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedError("send the request without Content-Encoding")
    service.check_room(Caller.of(request))
    asked = read_inference(
        await request.body(),
        request.headers.get(HEADER),
        most_images=settings.max_parts,
        most_json=max(get_settings().max_input_bytes // _JSON_SHARE, 1 << 16),
    )
    options = _options(asked, settings.precision)
    requests = (UpscaleRequest(_encode(image), reference, options) for image in asked.images)
    images: list[np.ndarray[Any, Any]] = []
    model = reference
    async for outcome in service.upscale_many(requests, Caller.of(request)):
        if isinstance(outcome, Exception):
            raise outcome
        model = outcome.model
        images.append((await asyncio.to_thread(read_image, outcome.data)).pixels)
    name, _, version = model.partition("/")
    body, headers = await asyncio.to_thread(render_inference, asked, images, name, version)
    return Response(body, headers=headers)


def _options(asked: Inference, precision: str) -> Options:
    options = parse_options({"precision": precision, **asked.options, "format": "tiff"})
    check_options(options)
    return options


def _encode(image: np.ndarray[Any, Any]) -> bytes:
    return write_image(Image(np.ascontiguousarray(image), container="tiff"))
