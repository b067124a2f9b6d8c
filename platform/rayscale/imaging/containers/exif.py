"""EXIF 2.32 (CIPA DC-008): a block of directories as in a small TIFF, kept when its picture changes its size.

A block is edited in place. Maker notes point at places of the block, so nothing in it may move. What has to be added is
added at the end. A TIFF holds the same directories among its own; they are copied from it and into it.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from rayscale.errors import InputError
from rayscale.imaging.containers.ifd import TYPES, Ifd

EXIF_IFD, GPS_IFD, _INTEROPERABILITY_IFD = 34665, 34853, 40965
_SUB = (EXIF_IFD, GPS_IFD, _INTEROPERABILITY_IFD)
MAKER_NOTE = 37500
_ORIENTATION = 274

# Directory (None is the first) and tags of width and height.
_SIZES = ((None, 256, 257), (EXIF_IFD, 40962, 40963))
_DENSITIES = ((None, 282, 283), (EXIF_IFD, 41486, 41487))
"""Pixels per inch on paper, and per unit of the sensor: focal lengths in pixels are computed from the latter."""
_PLACES = (37396, 41492)
"""Where the subject is: x, y, and a diameter or width and height."""

MAKER_NOTE_LOST = (
    "the maker note of the camera was left out: it would not be readable at another place of a file"
)

_SHORT, _LONG = 3, 4

_MOST_BYTES = 4 << 20
"""Of the values of a directory: many entries may claim the same bytes of a large file."""


@dataclass(frozen=True)
class Value:
    """A value to be stored: its field type, how many, and its bytes in the order of the file."""

    kind: int
    count: int
    raw: bytes


Tree = dict[int, "Value | Tree"]
"""Tag to value, or to a directory of its own; values are little-endian."""


def resized(
    block: bytes,
    size: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    orientation: int = 1,
) -> bytes:
    """``block`` for a picture that was turned upright from ``orientation`` and enlarged to ``size`` (width, height).

    Sizes, resolutions and places in pixels follow; the orientation is 1, the thumbnail is gone. Raises InputError for a
    block whose first directory is damaged; another that is damaged stays as it is.
    """
    ifd = Ifd.first(block)
    out = bytearray(block)
    _put_integer(out, ifd, _ORIENTATION, 1)
    _drop_thumbnail(out, ifd)
    directories: dict[int | None, Ifd | None] = {None: ifd, EXIF_IFD: None}
    with suppress(InputError):
        directories[EXIF_IFD] = ifd.sub(EXIF_IFD)
    for place, *tags in _SIZES:
        if (found := directories[place]) is not None:
            for tag, value in zip(tags, size, strict=True):
                _put_integer(out, found, tag, value)
    for place, *tags in _DENSITIES:
        if (found := directories[place]) is not None:
            _scale_densities(out, found, tags, scale, orientation)
    if (found := directories[EXIF_IFD]) is not None:
        for tag in _PLACES:
            _move(out, found, tag, size, scale, orientation)
    return bytes(out)


def with_tags(block: bytes, tags: Tree) -> bytes:
    """A block, or a whole TIFF, whose first directory has ``tags`` besides or instead; only its end grows.

    Raises InputError for a damaged directory.
    """
    ifd = Ifd.first(block)
    count, start = ifd.extent
    size, wide = (20, "Q") if ifd.big else (12, "I")
    block += b"\0" * (len(block) % 2)
    kept: dict[int, bytes] = {}
    for at in range(start, start + count * size, size):
        entry = block[at : at + size]
        kept.setdefault(struct.unpack_from(ifd.order + "H", entry)[0], entry)
    tail = _directory(tags, ifd.order, ifd.big, len(block), kept, ifd.next_offset)
    head = bytearray(block)
    struct.pack_into(ifd.order + wide, head, 8 if ifd.big else 4, len(block))
    return bytes(head) + tail


def new_block(tree: Tree) -> bytes:
    """A block of nothing but ``tree``."""
    return b"II*\0\x08\0\0\0" + _directory(tree, "<", False, 8)


def tree_of(ifd: Ifd, tags: tuple[int, ...] = _SUB) -> Tree:
    """The values of some tags of a directory, their own directories whole but for the maker note, which would not outlive
    another place. What is damaged is left out."""
    tree: Tree = {}
    room = _MOST_BYTES
    for tag in tags:
        with suppress(InputError):
            if tag in _SUB:
                if (sub := ifd.sub(tag)) is not None:
                    further = {_INTEROPERABILITY_IFD} if tag == EXIF_IFD else set()
                    inner = (t for t in sub.fields if t not in {*_SUB, MAKER_NOTE} - further)
                    if found := tree_of(sub, tuple(inner)):
                        tree[tag] = found
            elif (value := _value(ifd, tag)) is not None and (room := room - len(value.raw)) >= 0:
                tree[tag] = value
    return tree


def tells_orientation(block: bytes) -> bool:
    """Whether a block has an orientation; InputError when it is damaged."""
    return _ORIENTATION in Ifd.first(block)


def has_maker_note(ifd: Ifd) -> bool:
    """Whether the camera left notes of its own format."""
    with suppress(InputError):
        sub = ifd.sub(EXIF_IFD)
        return sub is not None and MAKER_NOTE in sub
    return False


def text_value(text: bytes) -> Value:
    """A text as EXIF stores it."""
    return Value(2, len(text) + 1, text + b"\0")


def bytes_value(data: bytes, kind: int = 1) -> Value:
    """Bytes as they are."""
    return Value(kind, len(data), data)


def rational_value(value: float) -> Value:
    """An unsigned rational."""
    return Value(5, 1, struct.pack("<II", *_as_ratio(Fraction(value))))


def short_value(value: int) -> Value:
    """A small integer."""
    return Value(_SHORT, 1, struct.pack("<H", value))


def _value(ifd: Ifd, tag: int) -> Value | None:
    raw = ifd.raw(tag)
    if raw is None:
        return None
    field = ifd.fields[tag]
    return Value(field.kind, field.length, _swap(raw, field.kind, ifd.order))


def _swap(raw: bytes, kind: int, order: str) -> bytes:
    """Values of one byte order in little-endian, or the other way round."""
    code = TYPES[kind][0]
    return bytes(raw) if order == "<" else np.frombuffer(raw, "<" + code).byteswap().tobytes()


def _directory(
    tree: Tree,
    order: str,
    big: bool,
    start: int,
    kept: dict[int, bytes] | None = None,
    following: int = 0,
) -> bytes:
    """The bytes of a directory that lies at ``start``, its values after it; ``kept`` are entries as they are."""
    entries: dict[int, bytes | Value | Tree] = {**(kept or {}), **tree}
    wide, inline, count = ("Q", 8, "Q") if big else ("I", 4, "H")
    head = struct.pack(order + count, len(entries))
    size = len(head) + len(entries) * (12 + 2 * (inline - 4)) + inline
    values = b""
    for tag in sorted(entries):
        entry = entries[tag]
        if isinstance(entry, bytes):
            head += entry
            continue
        at = start + size + len(values)
        if isinstance(entry, Value):
            kind, length, raw = entry.kind, entry.count, _swap(entry.raw, entry.kind, order)
        else:
            kind, length, raw = 16 if big else _LONG, 1, struct.pack(order + wide, at)
            values += _directory(entry, order, big, at)
        if len(raw) > inline:
            values += raw
            raw = struct.pack(order + wide, at)
        head += struct.pack(order + "HH" + wide, tag, kind, length) + raw.ljust(inline, b"\0")
        values += b"\0" * (len(values) % 2)
    return head + struct.pack(order + wide, following) + values


def _put_integer(out: bytearray, ifd: Ifd, tag: int, value: int) -> None:
    """Set a single integer where there is one."""
    field = ifd.fields.get(tag)
    if field is None or field.length != 1 or field.kind not in (_SHORT, _LONG) or ifd.big:
        return
    kind = _LONG if value > 0xFFFF else field.kind
    struct.pack_into(ifd.order + "H", out, field.position - 6, kind)
    out[field.position : field.position + 4] = struct.pack(
        ifd.order + ("I" if kind == _LONG else "H"), value
    ).ljust(4, b"\0")


def _drop_thumbnail(out: bytearray, ifd: Ifd) -> None:
    count, start = ifd.extent
    struct.pack_into(ifd.order + "I", out, start + count * 12, 0)
    with suppress(InputError):
        thumbnail = ifd.following()
        if thumbnail is None:
            return
        for places, lengths in ((513, 514), (273, 279)):
            spans = zip(thumbnail.numbers(places), thumbnail.numbers(lengths), strict=False)
            for offset, length in spans:
                if 8 <= offset <= len(out) - length:
                    out[offset : offset + length] = bytes(length)
                    if offset + length == len(out):
                        del out[offset:]


def _scale_densities(
    out: bytearray, ifd: Ifd, tags: list[int], scale: tuple[float, float], orientation: int
) -> None:
    found: list[Fraction] = []
    for tag in tags:
        field = ifd.fields.get(tag)
        if field is None or field.kind != 5 or field.length != 1:
            return
        if field.position + 8 > len(out):
            return
        top, bottom = struct.unpack_from(ifd.order + "II", out, field.position)
        if not bottom:
            return
        found.append(Fraction(top, bottom))
    if orientation >= 5:
        found.reverse()
    for tag, value, factor in zip(tags, found, scale, strict=True):
        ratio = _as_ratio(value * Fraction(factor).limit_denominator(10**6))
        struct.pack_into(ifd.order + "II", out, ifd.fields[tag].position, *ratio)


def _as_ratio(value: Fraction) -> tuple[int, int]:
    """Numerator and denominator of 32 bit."""
    limit = 0xFFFFFFFF
    if value >= limit:
        return limit, 1
    bound = limit
    while value.numerator > limit or value.denominator > limit:
        value = value.limit_denominator(bound)
        bound //= 2
    return value.numerator, value.denominator


def _move(
    out: bytearray,
    ifd: Ifd,
    tag: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    orientation: int,
) -> None:
    """Turn and scale a place: x, y, then a diameter or a width and a height."""
    field = ifd.fields.get(tag)
    if field is None or field.kind != _SHORT or not 2 <= field.length <= 4:
        return
    try:
        values: list[Any] = ifd.numbers(tag)
    except InputError:
        return
    # ``size`` is that of the enlarged picture, upright.
    width, height = size[0] / scale[0], size[1] / scale[1]
    x, y, *extent = values
    if orientation >= 5:
        x, y, extent = y, x, extent[::-1]
    if orientation in (2, 3, 6, 7):
        x = width - 1 - x
    if orientation in (3, 4, 7, 8):
        y = height - 1 - y
    factors = [*scale, *scale][: len(values)]
    moved = [
        min(max(round(v * factor), 0), 0xFFFF)
        for v, factor in zip([x, y, *extent], factors, strict=True)
    ]
    struct.pack_into(f"{ifd.order}{len(moved)}H", out, field.position, *moved)
