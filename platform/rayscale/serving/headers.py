"""The headers of an answer that say what was done."""

from __future__ import annotations

import textwrap
from typing import Any

from rayscale import __version__, strictjson
from rayscale.serving.requests import Result

_NOTES, _NOTE_CHARS = 8, 400  # of the notes in a header, which proxies hold to 8 KiB
_STAGES = ("queue", "decode", "upscale", "encode", "total")

RESULT_HEADERS: dict[str, Any] = {
    name: {"schema": {"type": kind}, "description": text}
    for name, kind, text in (
        ("X-Rayscale-Model", "string", "the exact model: name/version"),
        ("X-Rayscale-Model-Version", "string", "its version; absent for a built-in model"),
        (
            "X-Rayscale-Weights-Sha256",
            "string",
            "sha256 of its weights, or `built-in:NAME` for an interpolation",
        ),
        ("X-Rayscale-Scale", "number", "the scale that was used"),
        (
            "X-Rayscale-Residual",
            "string",
            "with `consistency`: how far the shrunken result is from the input, `max=..., rms=...` in stored units",
        ),
        (
            "X-Rayscale-Notes",
            "string",
            "what there is to know of how the image was read, a JSON list of sentences; absent when nothing",
        ),
        ("X-Rayscale-Width", "integer", "of the enlarged image, in pixels"),
        ("X-Rayscale-Height", "integer", "likewise"),
        ("X-Rayscale-Version", "string", "the version of rayscale"),
        (
            "Server-Timing",
            "string",
            "milliseconds of queue (waiting, and the way between the processes), decode, upscale, encode, and in total",
        ),
        ("X-Request-Id", "string", "the id of the request: yours, or a new one"),
    )
}


def result_headers(result: Result) -> dict[str, str]:
    """Of the answer to one image; the id of the request comes from elsewhere."""
    stages = [(name, result.seconds[name]) for name in _STAGES if name in result.seconds]
    headers = {
        "X-Rayscale-Model": result.model,
        "X-Rayscale-Weights-Sha256": result.digest,
        "X-Rayscale-Scale": str(result.scale),
        "X-Rayscale-Width": str(result.width),
        "X-Rayscale-Height": str(result.height),
        "X-Rayscale-Version": __version__,
        "Server-Timing": ", ".join(f"{k};dur={1000 * v:.1f}" for k, v in stages),
    }
    _, separator, version = result.model.partition("/")
    if separator:
        headers["X-Rayscale-Model-Version"] = version
    if result.residual is not None:
        measures = (f"{name}={value:.6g}" for name, value in result.residual.items())
        headers["X-Rayscale-Residual"] = ", ".join(measures)
    if result.notes:
        notes = [textwrap.shorten(note, _NOTE_CHARS) for note in result.notes[:_NOTES]]
        # ASCII, whatever a file calls its bands.
        headers["X-Rayscale-Notes"] = strictjson.dumps(notes)
    return headers
