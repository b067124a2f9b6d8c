"""Rows of a shard column in object storage, each read where it lies: for shards that do not fit into the cache.

What is needed to find a row is the end of the file and the head of each record batch, some kilobytes in all. Rows that
are read so are not compared with the sha256 of the column, which is over the whole file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from rayscale.data.manifest import Column
from rayscale.errors import StorageError
from rayscale.storage import Store

Pixels = npt.NDArray[Any]

_TAIL = 1 << 16
_MAGIC = b"ARROW1"
_LEAST = 32  # bytes of a file without a batch
_READERS = 8


class RangedColumn(Sequence[Pixels]):
    """The rows of a column, as those of ``open_shard``; getting one reads it from the store.

    Args:
        sizes: height and width of every row, in pixels of this column.

    Raises StorageError for a file that is not a shard.
    """

    def __init__(
        self,
        store: Store,
        column: Column,
        *,
        channels: int,
        bits: int,
        sizes: Sequence[tuple[int, int]],
    ) -> None:
        self._store, self._column = store, column
        self._dtype = np.dtype(f"<u{bits // 8}")
        self._shapes = [(channels, height, width) for height, width in sizes]
        self._starts = self._find_starts()

    def __len__(self) -> int:
        return len(self._shapes)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pixels]: ...
    def __getitem__(self, index: int | slice) -> Pixels | list[Pixels]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        data = self._read(self._starts[index], self._bytes_of(index))
        return np.frombuffer(data, self._dtype).reshape(self._shapes[index])

    def _bytes_of(self, index: int) -> int:
        channels, height, width = self._shapes[index]
        return channels * height * width * self._dtype.itemsize

    def _read(self, start: int, length: int) -> bytes:
        inside = 0 <= start <= start + length <= self._column.bytes
        data = self._store.read_range(self._column.key, start, length) if inside else b""
        if not inside or len(data) != length:
            raise self._damage()
        return data

    def _damage(self) -> StorageError:
        return StorageError(
            f"{self._store.locate(self._column.key)} is not a shard of this format, or was damaged; prepare the dataset again"
        )

    def _find_starts(self) -> list[int]:
        """Where the pixels of each row begin in the file."""
        try:
            blocks = self._find_blocks()
            with ThreadPoolExecutor(_READERS) as pool:
                heads = list(pool.map(lambda block: self._read(block[0], block[1]), blocks))
            starts: list[int] = []
            for (offset, head_bytes, _), head in zip(blocks, heads, strict=True):
                rows, place, length = _find_pixels(head)
                start = offset + head_bytes + place
                for index in range(len(starts), len(starts) + rows):
                    starts.append(start)
                    start += self._bytes_of(index)
                if start > offset + head_bytes + place + length:
                    raise self._damage()
        except (struct.error, IndexError, ValueError) as error:
            raise self._damage() from error
        if len(starts) != len(self._shapes):
            raise self._damage()
        return starts

    def _find_blocks(self) -> list[tuple[int, int, int]]:
        """Offset, bytes of the head and bytes of the body of each record batch, of the footer of the file."""
        size = self._column.bytes
        if size < _LEAST:
            raise self._damage()
        tail = self._read(max(0, size - _TAIL), min(size, _TAIL))
        if tail[-len(_MAGIC) :] != _MAGIC:
            raise self._damage()
        (footer_bytes,) = struct.unpack_from("<i", tail, len(tail) - 10)
        if footer_bytes + 10 > len(tail):
            tail = self._read(size - footer_bytes - 10, footer_bytes + 10)
        first, count = _Table.root(tail[-10 - footer_bytes : -10]).vector(3)
        footer = tail[-10 - footer_bytes : -10]
        return [struct.unpack_from("<qi4xq", footer, first + 24 * n) for n in range(count)]


class _Table:
    """A table of a flatbuffer: Arrow's metadata (format/Message.fbs and File.fbs of the Arrow specification)."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    @classmethod
    def root(cls, data: bytes) -> _Table:
        """The table that a buffer holds."""
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def field(self, number: int) -> int:
        """Where a field lies; ValueError for one that is left out."""
        vtable = self._at - struct.unpack_from("<i", self._data, self._at)[0]
        (size,) = struct.unpack_from("<H", self._data, vtable)
        entry = 4 + 2 * number
        offset = struct.unpack_from("<H", self._data, vtable + entry)[0] if entry < size else 0
        if not offset:
            raise ValueError(f"field {number} is left out")
        return self._at + int(offset)

    def table(self, number: int) -> _Table:
        """The table that a field refers to."""
        at = self.field(number)
        return _Table(self._data, at + struct.unpack_from("<I", self._data, at)[0])

    def vector(self, number: int) -> tuple[int, int]:
        """Where the elements of a vector begin, and how many there are."""
        at = self.field(number)
        at += struct.unpack_from("<I", self._data, at)[0]
        return at + 4, struct.unpack_from("<I", self._data, at)[0]

    def int64(self, number: int) -> int:
        """An integer."""
        return int(struct.unpack_from("<q", self._data, self.field(number))[0])


def _find_pixels(head: bytes) -> tuple[int, int, int]:
    """Rows of a record batch, and offset and length of their pixels in its body: the last buffer of the last column."""
    batch = _Table.root(head[8:]).table(2)
    first, count = batch.vector(2)
    place, length = struct.unpack_from("<qq", head, 8 + first + 16 * (count - 1))
    return batch.int64(0), place, length
