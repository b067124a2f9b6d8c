"""Bodies of images as the OpenAPI document describes them, each with a small file as its example."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from rayscale.imaging import MIME

_FILES = {
    "png": "small.png",
    "jpeg": "small.jpg",
    "webp": "small.webp",
    "tiff": "small.tif",
    "geotiff": "small.geo.tif",
    "dicom": "small.dcm",
    "nifti": "small.nii",
    "nifti-gz": "small.nii.gz",
}
_HERE = Path(__file__).with_name("examples")


def image_bodies() -> dict[str, Any]:
    """The ``content`` of a body of one image: every media type that is read and written."""
    return {mime: _body(container) for container, mime in MIME.items()}


def as_uri(mime: str, data: bytes) -> str:
    """An example in place, as an address."""
    return f"data:{mime.replace(' ', '')};base64,{base64.b64encode(data).decode()}"


def _body(container: str) -> dict[str, Any]:
    mime, name = MIME[container], _FILES[container]
    uri = as_uri(mime, (_HERE / name).read_bytes())
    return {
        "schema": {"type": "string", "format": "binary"},
        "examples": {name: {"summary": f"A small {container}", "externalValue": uri}},
    }
