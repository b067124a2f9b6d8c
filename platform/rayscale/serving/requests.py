"""What the ingress and the model replicas say to each other, and what can be refused without a model.

Imports no torch: the ingress needs none, and a process without it is half the size.
"""

from __future__ import annotations

from dataclasses import dataclass

from rayscale.imaging import Header
from rayscale.imaging.limits import check_output
from rayscale.imaging.limits import check_size as check_input
from rayscale.options import DEFAULTS, Options
from rayscale.registry.reference import parse_reference
from rayscale.serving.errors import BadParameterError, SourceNotAllowedError
from rayscale.settings import get_settings


@dataclass(frozen=True)
class UpscaleRequest:
    """The encoded image and what to do with it.

    Attributes:
        model: None means the default model.
        owner, weight: whom the work is for, and how much of it that caller has a right to beside others.
    """

    data: bytes
    model: str | None = None
    options: Options = DEFAULTS
    owner: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class EstimateRequest:
    """What an image would take: its header, the bytes of its file where they are known, and what to do with it."""

    header: Header
    size: int | None = None
    model: str | None = None
    options: Options = DEFAULTS


@dataclass(frozen=True)
class Result:
    """The encoded answer and what is known of it.

    Attributes:
        container, width, height: of ``data``.
        model, digest, scale: what made it; ``model`` is the reference that always means the same.
        seconds: of ``decode``, ``upscale`` and ``encode``.
        notes: what the reader of the image says of it.
        residual: ``max`` and ``rms`` of ``|down(SR) - LR|`` in stored units, with ``consistency``.
        pixels: of the source, all slices.
        replica: that made it; "" without Ray.
        uncertainty: the file of the standard deviations and its container, where they were asked for.
    """

    data: bytes
    container: str
    model: str
    digest: str
    scale: float
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    residual: dict[str, float] | None = None
    width: int = 0
    height: int = 0
    pixels: int = 0
    replica: str = ""
    uncertainty: tuple[bytes, str] | None = None


def check_reference(reference: str) -> None:
    """Refuse text that is not a name, alias or version: addresses and paths never reach the registry."""
    if parse_reference(reference) is not None:
        return
    if any(mark in reference for mark in (":", "..", "\\", "%")) or reference.startswith(
        ("/", "~")
    ):
        raise SourceNotAllowedError(
            "a model is named by its name, name@alias or name/version in the registry, never by a "
            "path or an address"
        )
    raise BadParameterError(
        f"{reference[:80]!r} is not a model reference; use name, name@alias or name/version"
    )


def check_size(header: Header, scale: float) -> None:
    """Refuse by the header alone an image, or its enlargement, over the limits; nothing is decoded."""
    check_input(header, get_settings().max_input_pixels)
    check_output(header, scale)
