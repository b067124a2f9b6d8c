"""Libraries that only some users need: imported when they are needed, with an error that names the extra."""

from __future__ import annotations

import importlib
from typing import Any

from rayscale.errors import UnsupportedError

_FOR = {
    "geo": "GeoTIFF needs",
    "medical": "DICOM and NIfTI need",
    "local": "the local stack needs",
    "onnx": "ONNX needs",
    "openvino": "OpenVINO needs",
}


def load(module: str, extra: str) -> Any:
    """The module; UnsupportedError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedError(
            f"{_FOR[extra]} the extra {extra} ({module.partition('.')[0]} is missing); "
            f"install it with: pip install 'rayscale[{extra}]'"
        ) from error
