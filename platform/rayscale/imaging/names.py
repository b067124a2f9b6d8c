"""What names of files say of their formats, and where they and the content disagree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from rayscale.errors import ConfigError
from rayscale.imaging.files import CONTAINERS, EXTENSIONS, probe, sniff
from rayscale.options import Format

_SNIFFED = 1 << 10
"""Bytes of a file that tell its format."""


def ending_of(name: str) -> str:
    """The known ending of a file name in lower case (``.nii.gz`` is one), "" when it has none."""
    known = (suffix for suffix in EXTENSIONS if name.lower().endswith(suffix))
    return max(known, key=len, default="")


def container_for(
    data: bytes, source: str, target: str, format: Format | None = None
) -> str | None:
    """The container to write, as the format that is asked for or the ending of the output says; None for that of ``data``.

    Args:
        data: the source. source, target: names of files; "" for a source without one.

    Raises ConfigError where the ending of ``target`` tells no format, or another than is asked for.
    """
    ending = ending_of(target)
    if format is not None:
        usual = CONTAINERS[EXTENSIONS[f".{format}"]].suffixes
        if ending not in ("", *usual):
            raise ConfigError(
                f"{target} ends in {ending}, but the format asked for is {format}; let it end in {usual[0]}, or ask for "
                "no format"
            )
        return EXTENSIONS[f".{format}"]
    kept, wanted = PurePath(source).suffix, PurePath(target).suffix
    # A name without ending may stay one, as the content says what it is; another is likely a folder that is not there.
    if wanted == kept and bool(wanted or PurePath(target).name == PurePath(source).name):
        return None
    if not ending:
        raise ConfigError(
            f"{target}: cannot tell the format from {wanted or 'a missing ending'!r}; "
            f"use one of {', '.join(sorted(EXTENSIONS))}"
        )
    return None if ending in CONTAINERS[probe(data).container].suffixes else EXTENSIONS[ending]


def heed_name(name: str, container: str) -> tuple[str, ...]:
    """A note where a file, whose name and container are kept, is named like one of another format."""
    ending, usual = ending_of(name), CONTAINERS[container].suffixes
    if not ending or ending in usual:
        return ()
    return (
        f"its name ends in {ending}, but it is a {container.upper()}, and so is the output; other programs may refuse "
        f"both until they end in {usual[0]}",
    )


# Endings of programs rather than formats: Siemens calls DICOM files .IMA, as others call their images.
_VAGUE = {"ima", "dicom", "dic"}


def is_nameless(name: str) -> bool:
    """Whether a file name says nothing of a format: it has no ending, a number as DICOM files have (``IM.0002``), or one of
    several formats."""
    suffix = PurePath(name).suffix[1:].lower()
    return not suffix or suffix.isdecimal() or suffix in _VAGUE


def is_image(name: str, head: Callable[[int], bytes]) -> bool:
    """Whether a file is meant as an image: by its name, or where that says nothing, by its content.

    ``head`` reads the first bytes, so many at most.
    """
    if ending_of(name):
        return True  # what it holds instead, its reader says
    return is_nameless(name) and sniff(head(_SNIFFED)) is not None
