"""JSON that every parser reads: RFC 8259 knows no Infinity and no NaN, which Python's ``json`` writes and others refuse.

Such a number is written as null, and a flag beside it says which it is: ``{"psnr": null, "psnr_is": "Infinity"}``, in a
list ``{"nodata": [null, 0], "nodata_is": ["NaN", null]}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

FORMAT = 1
"""Of what commands print and of tables of scores; counts up when a field goes or changes its meaning."""

_FLAG = "_is"


def dumps(value: Any, **options: Any) -> str:
    """The JSON text of plain values; ``options`` as in ``json.dumps``."""
    return json.dumps(_flag(value), allow_nan=False, **options)


def document(value: Any) -> str:
    """The text of a result for other programs: the object, or each object of a list, begins with its ``format``."""
    numbered = (
        [{"format": FORMAT, **each} for each in value]
        if isinstance(value, list)
        else {"format": FORMAT, **value}
    )
    return dumps(numbered, indent=2, ensure_ascii=False)


def loads(text: str | bytes) -> Any:
    """The values of a text of ``dumps``, numbers that are not finite among them."""
    return json.loads(text, object_hook=_unflag)


def _flag(value: Any) -> Any:
    if isinstance(value, Mapping):
        values = {}
        for key, inner in value.items():
            values[key] = _flag(inner)
            if flag := _flag_of(inner):
                values[f"{key}{_FLAG}"] = flag
        return values
    if isinstance(value, list | tuple):
        return [_flag(inner) for inner in value]
    return None if _flag_of(value) else value


def _flag_of(value: Any) -> Any:
    """What null stands for in a number, or in a list of them; None where nothing is hidden."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list | tuple):
        flags = [_flag_of(inner) for inner in value]
        return flags if any(flags) else None
    return None


def _unflag(values: dict[str, Any]) -> dict[str, Any]:
    for flag in [key for key in values if key.endswith(_FLAG)]:
        key = flag.removesuffix(_FLAG)
        if key in values:
            values[key] = _restore(values[key], values.pop(flag))
    return values


def _restore(value: Any, flag: Any) -> Any:
    if isinstance(value, list) and isinstance(flag, list) and len(value) == len(flag):
        return [_restore(*both) for both in zip(value, flag, strict=True)]
    return float(flag) if value is None and flag in {"NaN", "Infinity", "-Infinity"} else value
