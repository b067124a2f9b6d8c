"""The file of one shard column: an Arrow IPC file whose pixels are cropped in place, without decoding.

One row is one sub-image; ``pixels`` are its raw values as ``(C, H, W)``, little-endian, uncompressed, so
that a memory-mapped file is an array at once and channels-first patches are copied in long runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayscale.data.cutting import Cut
from rayscale.errors import StorageError

Pixels = npt.NDArray[Any]

_FIELDS = (
    ("source", pa.string()),
    ("y", pa.int32()),
    ("x", pa.int32()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("channels", pa.int32()),
    ("pixels", pa.large_binary()),
)


class ShardWriter:
    """Writes one column of a shard; a context manager. ``scale`` is 1 for HR."""

    def __init__(self, path: str | Path, scale: int, bits: int) -> None:
        metadata = {"rayscale.scale": str(scale), "rayscale.bits": str(bits)}
        self._schema = pa.schema(_FIELDS, metadata=metadata)
        self._dtype = np.dtype(f"<u{bits // 8}")
        self._writer = pa.ipc.new_file(str(path), self._schema)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the file. May be called again."""
        self._writer.close()

    def add(self, source: str, cuts: Sequence[Cut], parts: Sequence[Pixels]) -> None:
        """Append the sub-images ``(h, w, C)`` of one source image; ``cuts`` say where they lie in its HR."""
        planes = [
            np.ascontiguousarray(part.transpose(2, 0, 1)).astype(self._dtype, copy=False)
            for part in parts
        ]
        values: dict[str, list[Any]] = {
            "source": [source] * len(cuts),
            "y": [cut.y for cut in cuts],
            "x": [cut.x for cut in cuts],
            "height": [plane.shape[1] for plane in planes],
            "width": [plane.shape[2] for plane in planes],
            "channels": [plane.shape[0] for plane in planes],
            "pixels": [plane.tobytes() for plane in planes],
        }
        arrays = [pa.array(values[name], kind) for name, kind in _FIELDS]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))


def open_shard(path: str | Path) -> list[Pixels]:
    """Map a shard column: one read-only ``(C, H, W)`` view of uint8 or uint16 per row, nothing copied.

    The mapping lives as long as one of the views. Raises ``FileNotFoundError``, and ``StorageError`` for a file
    that is not a shard.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path)))
        bits = int(table.schema.metadata[b"rayscale.bits"])
        batches = [table.get_batch(index) for index in range(table.num_record_batches)]
        return [view for batch in batches for view in _views(batch, np.dtype(f"<u{bits // 8}"))]
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise StorageError(f"{path} is not a shard of this format: {error}") from error


def read_places(path: str | Path) -> list[tuple[str, Cut]]:
    """Source key and place of every row of a shard column; sides are those of this column's scale."""
    table = (
        pa.ipc.open_file(pa.memory_map(str(path))).read_all().drop_columns(["pixels", "channels"])
    )
    return [
        (row["source"], Cut(row["y"], row["x"], row["height"], row["width"]))
        for row in table.to_pylist()
    ]


def _views(batch: Any, dtype: np.dtype[Any]) -> list[Pixels]:
    pixels = batch.column("pixels")
    _, offset_buffer, data = pixels.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[pixels.offset :]
    shapes = zip(
        batch.column("channels").to_pylist(),
        batch.column("height").to_pylist(),
        batch.column("width").to_pylist(),
        strict=True,
    )
    flat = np.frombuffer(data, np.uint8)
    views = []
    for index, shape in enumerate(shapes):
        row = flat[offsets[index] : offsets[index + 1]].view(dtype).reshape(shape)
        row.flags.writeable = False
        views.append(row)
    return views
