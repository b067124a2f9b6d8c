"""Images as tensors of the Open Inference Protocol, in JSON and in its extension of binary data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayscale import strictjson
from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.serving.errors import BadParameterError

INPUT, OUTPUT = "image", "larger"
DATATYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2")}

HEADER = "Inference-Header-Content-Length"

_RESERVED = {"binary_data_output", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"}  # fmt: skip


@dataclass(frozen=True)
class Inference:
    """One request.

    Attributes:
        id: comes back in the answer.
        images: ``(N, H, W, C)``, uint8 or uint16.
        batched: whether the tensor had N.
        options: of the upscale, in their text forms.
        binary: whether the output goes back as bytes.
    """

    id: str
    images: np.ndarray[Any, Any]
    batched: bool
    options: Mapping[str, Any]
    binary: bool


def read_inference(
    body: bytes, header: str | None, *, most_images: int, most_json: int
) -> Inference:
    """The request of a body, of which ``header`` says where its JSON ends.

    Args:
        most_images: N of a tensor (RAYSCALE_SERVE_MAX_PARTS).
        most_json: bytes of JSON, which takes many times as much while it is read.

    Raises InputError, UnsupportedError, TooLargeError, BadParameterError.
    """
    length = len(body)
    if header is not None:
        if not (header.isascii() and header.isdigit() and int(header[:12]) <= len(body)):
            raise InputError(f"{HEADER} {header[:20]!r} is not a length within the body")
        length = int(header)
    if length > most_json:
        raise TooLargeError(
            f"the JSON of the request has {length} bytes, over the limit of {most_json}; send the tensor as binary data"
        )
    try:
        told = json.loads(body[:length])
        tensor, parameters = told["inputs"], _object(told.get("parameters"))
        if not isinstance(tensor, list) or len(tensor) != 1 or tensor[0]["name"] != INPUT:
            raise InputError(f"the request must have one input, {INPUT!r}")
        shape, datatype = tensor[0]["shape"], tensor[0]["datatype"]
        binary = _wants_binary(told, parameters)
        options = {name: value for name, value in parameters.items() if name not in _RESERVED}
        name = str(told.get("id", ""))
        size = _object(tensor[0].get("parameters")).get("binary_data_size")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"the body is not an inference request: {type(error).__name__} {str(error)[:100]}"
        ) from None
    if any(not isinstance(value, str | int | float | bool) for value in options.values()):
        raise BadParameterError("a parameter of the request is neither text nor a number")
    shape = _checked(shape, most_images)
    images = _values(tensor[0].get("data"), size, shape, datatype, memoryview(body)[length:])
    batched = images.ndim == 4
    return Inference(name, images if batched else images[None], batched, options, binary)


def render_inference(
    asked: Inference, images: list[np.ndarray[Any, Any]], model: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an answer."""
    larger = np.stack(images) if asked.batched else images[0]
    datatype = next(name for name, dtype in DATATYPES.items() if dtype.itemsize == larger.itemsize)
    output: dict[str, Any] = {"name": OUTPUT, "datatype": datatype, "shape": list(larger.shape)}
    data = b""
    if asked.binary:
        data = larger.astype(DATATYPES[datatype], copy=False).tobytes()
        output["parameters"] = {"binary_data_size": len(data)}
    else:
        output["data"] = larger.ravel().tolist()
    told: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": [output]}
    if asked.id:
        told["id"] = asked.id
    head = strictjson.dumps(told).encode()
    if not asked.binary:
        return head, {"Content-Type": "application/json"}
    return head + data, {"Content-Type": "application/octet-stream", HEADER: str(len(head))}


def _object(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise TypeError("parameters are an object")
    return value or {}


def _wants_binary(told: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    wanted = told.get("outputs") or []
    for output in wanted:
        if output["name"] != OUTPUT:
            raise InputError(f"there is one output, {OUTPUT!r}, not {str(output['name'])[:80]!r}")
        if "binary_data" in (given := _object(output.get("parameters"))):
            return bool(given["binary_data"])
    return bool(parameters.get("binary_data_output", False))


def _checked(shape: Any, most_images: int) -> tuple[int, ...]:
    sound = isinstance(shape, list) and all(type(n) is int and 0 < n < 1 << 31 for n in shape)
    if not sound or len(shape) not in (3, 4):
        raise InputError(
            f"the shape of {INPUT!r} is [height, width, channels], or [images, height, width, channels], not "
            f"{str(shape)[:80]}"
        )
    if len(shape) == 4 and shape[0] > most_images:
        raise TooLargeError(
            f"{shape[0]} images in a tensor are over the limit of {most_images} (RAYSCALE_SERVE_MAX_PARTS)"
        )
    return tuple(shape)


def _values(
    data: Any, size: Any, shape: tuple[int, ...], datatype: Any, rest: memoryview
) -> np.ndarray[Any, Any]:
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise UnsupportedError(
            f"the datatype of {INPUT!r} is one of {', '.join(DATATYPES)}, not {str(datatype)[:40]!r}"
        )
    dtype = DATATYPES[datatype]
    count = math.prod(shape)
    if size is not None:
        if size != len(rest) or size != count * dtype.itemsize:
            raise InputError(
                f"{len(rest)} bytes follow the JSON; the shape needs {count * dtype.itemsize}, and binary_data_size says "
                f"{str(size)[:20]}"
            )
        return np.frombuffer(rest, dtype).reshape(shape)
    try:
        values = np.array(data)
    except ValueError:  # lists of different lengths
        values = np.empty(0)
    if values.dtype.kind not in "iu" or values.size != count or len(rest):
        raise InputError(f"data of {INPUT!r} must be {count} whole numbers")
    top = np.iinfo(dtype).max
    if values.min() < 0 or values.max() > top:
        raise InputError(f"values of {datatype} are from 0 to {top}")
    return values.astype(dtype).reshape(shape)
