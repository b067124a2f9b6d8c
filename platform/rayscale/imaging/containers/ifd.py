"""The tag directories of TIFF, BigTIFF and EXIF, read with every count and offset checked.

Only tags are read here; pixels are decoded in ``containers.tiff``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import NamedTuple

import numpy as np

from rayscale.errors import InputError

MAX_DIRECTORIES = 10_000

MAX_VALUES = 1 << 18
"""Integers in one tag; the longest are the lists of strips and tiles."""

REDUCED, MASK = 1, 4
"""Bits of the subfile type: a smaller copy of a page, a mask of one."""

_NEW_SUBFILE_TYPE = 254

# Field type: numpy code (byte order added when read) and the number of these per value.
TYPES: dict[int, tuple[str, int]] = {
    1: ("u1", 1), 2: ("u1", 1), 3: ("u2", 1), 4: ("u4", 1), 5: ("u4", 2), 6: ("i1", 1), 7: ("u1", 1),
    8: ("i2", 1), 9: ("i4", 1), 10: ("i4", 2), 11: ("f4", 1), 12: ("f8", 1), 13: ("u4", 1),
    16: ("u8", 1), 17: ("i8", 1), 18: ("u8", 1),
}  # fmt: skip


class _Field(NamedTuple):
    kind: int
    length: int
    position: int


def first_offset(head: bytes) -> int:
    """Where the first directory of the file lies that begins with ``head``; InputError when that is not a TIFF."""
    return _header(head)[2]


def _header(data: bytes | mmap) -> tuple[str, bool, int]:
    """Byte order, whether it is a BigTIFF, and the offset of the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise InputError(f"TIFF header is damaged or cut short ({len(data)} bytes)")
    (magic,) = struct.unpack_from(order + "H", data, 2)
    if magic == 42:
        return order, False, struct.unpack_from(order + "I", data, 4)[0]
    if magic == 43 and len(data) >= 16:
        return order, True, struct.unpack_from(order + "Q", data, 8)[0]
    raise InputError(f"TIFF header is damaged: version {magic} is neither 42 nor 43")


@dataclass(frozen=True)
class Ifd:
    """One directory: tag number to value, decoded when asked for.

    Every accessor raises InputError when the value lies outside the data or has an unknown type.
    """

    data: bytes | mmap
    order: str
    big: bool
    offset: int
    fields: dict[int, _Field]
    next_offset: int

    @classmethod
    def first(cls, data: bytes | mmap) -> Ifd:
        """The first directory of a TIFF, BigTIFF or EXIF block, or of a file mapped into memory.

        Raises:
            InputError: not a TIFF, or the directory lies outside the data.
        """
        return cls._read(data, *_header(data))

    @classmethod
    def apart(cls, head: bytes, directory: bytes) -> Ifd:
        """The first directory cut out of its file, as from :func:`first_offset` on; values outside it cannot be had.

        Raises:
            InputError: ``head`` is not that of a TIFF, or the directory is longer than what is given.
        """
        order, big, _ = _header(head)
        start = head[: 16 if big else 8]
        return cls._read(start + directory, order, big, len(start))

    @classmethod
    def _read(cls, data: bytes | mmap, order: str, big: bool, offset: int) -> Ifd:
        count, start = cls._count(data, order, big, offset)
        size = 20 if big else 12
        end = start + count * size
        if end > len(data):
            raise InputError(
                f"TIFF directory of {count} tags at byte {offset} runs past the end "
                f"({len(data)} bytes): the file is cut short or damaged"
            )
        fields: dict[int, _Field] = {}
        layout, inline = (order + "HHQ", 8) if big else (order + "HHI", 4)
        for at in range(start, end, size):
            tag, kind, number = struct.unpack_from(layout, data, at)
            position = at + size - inline
            if kind in TYPES:
                code, per_value = TYPES[kind]
                if number * per_value * int(code[1]) > inline:
                    position = struct.unpack_from(order + ("Q" if big else "I"), data, position)[0]
            fields.setdefault(tag, _Field(kind, number, position))
        pointer = order + ("Q" if big else "I")
        tail = data[end : end + struct.calcsize(pointer)]
        following = struct.unpack(pointer, tail)[0] if len(tail) == struct.calcsize(pointer) else 0
        return cls(data, order, big, offset, fields, following)

    @staticmethod
    def _count(data: bytes | mmap, order: str, big: bool, offset: int) -> tuple[int, int]:
        layout = order + ("Q" if big else "H")
        start = offset + struct.calcsize(layout)
        if offset < 8 or start > len(data):
            raise InputError(
                f"TIFF directory should lie at byte {offset}, but the file has {len(data)} bytes: "
                "it is cut short or damaged"
            )
        count: int = struct.unpack_from(layout, data, offset)[0]
        if count > 0xFFFF:
            raise InputError(f"TIFF directory at byte {offset} claims {count} tags: damaged")
        return count, start

    @property
    def extent(self) -> tuple[int, int]:
        """How many entries the directory has, and where the first of them lies."""
        return self._count(self.data, self.order, self.big, self.offset)

    def sub(self, tag: int) -> Ifd | None:
        """The directory that ``tag`` points at, None without; InputError when it lies outside the data."""
        offset = self.integer(tag, 0)
        return Ifd._read(self.data, self.order, self.big, offset) if offset else None

    def following(self) -> Ifd | None:
        """The next directory of the chain, None after the last; errors as in ``sub``."""
        offset = self.next_offset
        return Ifd._read(self.data, self.order, self.big, offset) if offset else None

    def full_pages(self) -> int:
        """Directories in the chain from this one on, without reduced-resolution copies and masks of a page.

        Raises:
            InputError: the chain loops, leaves the data, or is longer than ``MAX_DIRECTORIES``.
        """
        return 1 + sum(not kind & (REDUCED | MASK) for kind in self.following_kinds())

    def following_kinds(self) -> Iterator[int]:
        """The subfile type (bits ``REDUCED`` and ``MASK``) of every further directory; errors as of full_pages."""
        offset, seen = self.next_offset, {self.offset}
        while offset:
            if offset in seen:
                raise InputError(f"TIFF directories form a loop at byte {offset}: damaged")
            if len(seen) >= MAX_DIRECTORIES:
                raise InputError(f"TIFF has more than {MAX_DIRECTORIES} directories")
            seen.add(offset)
            count, start = self._count(self.data, self.order, self.big, offset)
            # Tags are sorted and the subfile type is the lowest, so only the first entry is looked at:
            # reading every entry of every directory would be slow on a hostile file.
            first = self._read_one(start) if count else None
            yield first[1] if first is not None and first[0] == _NEW_SUBFILE_TYPE else 0
            end = start + count * (20 if self.big else 12)
            pointer = self.order + ("Q" if self.big else "I")
            if end + struct.calcsize(pointer) > len(self.data):
                raise InputError(
                    f"TIFF directory at byte {offset} runs past the end: cut short or damaged"
                )
            (offset,) = struct.unpack_from(pointer, self.data, end)

    def _read_one(self, at: int) -> tuple[int, int] | None:
        layout = self.order + ("HHQI" if self.big else "HHII")
        if at + struct.calcsize(layout) > len(self.data):
            return None
        tag, _, _, value = struct.unpack_from(layout, self.data, at)
        return tag, value

    def __contains__(self, tag: int) -> bool:
        return tag in self.fields

    def _span(self, tag: int) -> tuple[_Field, str, int]:
        field = self.fields[tag]
        if field.kind not in TYPES:
            raise InputError(f"TIFF tag {tag} has the unknown type {field.kind}: damaged")
        code, per_value = TYPES[field.kind]
        number = field.length * per_value
        if field.position + number * int(code[1]) > len(self.data):
            raise InputError(
                f"TIFF tag {tag} of {field.length} values at byte {field.position} runs past the end "
                f"({len(self.data)} bytes): the file is cut short or damaged"
            )
        return field, code, number

    def numbers(self, tag: int) -> list[int]:
        """Integer values of ``tag``, an empty list when it is absent."""
        if tag not in self.fields:
            return []
        field, code, number = self._span(tag)
        if number > MAX_VALUES:
            raise InputError(f"TIFF tag {tag} lists {number} values, more than {MAX_VALUES}")
        if code[0] == "f" or field.kind in (2, 5, 10):
            raise InputError(
                f"TIFF tag {tag} should hold integers, but has type {field.kind}: damaged"
            )
        values = np.frombuffer(self.data, self.order + code, number, field.position)
        return [int(value) for value in values]

    def integer(self, tag: int, default: int) -> int:
        """The first value of ``tag``, or ``default`` when it is absent or empty."""
        if tag not in self.fields or not self.fields[tag].length:
            return default
        field, code, _ = self._span(tag)
        if code[0] == "f" or field.kind in (2, 5, 10):
            raise InputError(
                f"TIFF tag {tag} should hold an integer, but has type {field.kind}: damaged"
            )
        return int(np.frombuffer(self.data, self.order + code, 1, field.position)[0])

    def rational(self, tag: int) -> float | None:
        """The first value of ``tag`` as a number, None when absent or divided by zero."""
        if tag not in self.fields or not self.fields[tag].length:
            return None
        field, code, _ = self._span(tag)
        per_value = TYPES[field.kind][1]
        values = np.frombuffer(self.data, self.order + code, per_value, field.position)
        top = float(values[0])
        bottom = float(values[1]) if per_value == 2 else 1.0
        return top / bottom if bottom else None

    def raw(self, tag: int) -> bytes | None:
        """The bytes of ``tag`` as they lie in the file, None when it is absent."""
        if tag not in self.fields:
            return None
        field, code, number = self._span(tag)
        return self.data[field.position : field.position + number * int(code[1])]

    def text(self, tag: int) -> str | None:
        """A text value up to its first NUL, UTF-8 or else Latin-1; None when absent or empty."""
        value = self.raw(tag)
        if value is None:
            return None
        value = value.split(b"\0", 1)[0].strip()
        try:
            return value.decode("utf-8") or None
        except UnicodeDecodeError:
            return value.decode("latin-1")
