"""One task of a preparation: its images cut into the columns of its shards, and the record that commits them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from rayscale.data.config import PrepareConfig
from rayscale.data.manifest import Column, Failure, Shard
from rayscale.data.shards import ShardWriter
from rayscale.data.sources import Block, Kind, SkippedError, cut_image, cut_pair
from rayscale.errors import StorageError
from rayscale.files import sha256_of
from rayscale.settings import MIB
from rayscale.storage import Store, connect

FOLDER = "shards/"

_PIECE = 64 * MIB
"""Bytes of HR pixels that are written at a time; a picture of common size is one piece."""


class _Message(BaseModel):
    """Travels between processes as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardTask(_Message):
    """The images that become one shard, or several where they are large; everything a worker needs."""

    name: str
    source: str
    target: str
    keys: tuple[str, ...]
    config: PrepareConfig
    channels: int
    bits: Literal[8, 16]
    measure: str
    """Who decided the channels and bits, in words; empty when they were configured."""
    beside: dict[str, tuple[str, ...]] = {}
    """Sidecars of the images that have some."""
    lr_source: str = ""
    """Where the LR images of pairs lie; empty without pairs."""
    lr_keys: dict[str, dict[int, str]] = {}
    """Key of each LR image by key of its HR image and scale."""


class ShardRecord(_Message):
    """What a worker made of a task; stored beside the shards as their commit."""

    name: str
    """Of the task."""
    shards: tuple[Shard, ...]
    """Usually one; several where the task was larger than ``shard_bytes``, none where nothing could be used."""
    images: int
    pixels: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]
    """Exact sums over the HR pixels per channel, so that the order of addition cannot matter."""
    failures: tuple[Failure, ...]
    skipped: tuple[Failure, ...]
    incomplete: int


def record_key(name: str) -> str:
    """Where the record of a task is stored."""
    return f"{FOLDER}{name}.json"


class _Columns:
    """The columns of a task: a new shard begins when the HR column has ``shard_bytes``, and the one before is stored."""

    def __init__(self, task: ShardTask, target: Store, folder: Path) -> None:
        self._task, self._target, self._folder = task, target, folder
        config = task.config
        self._scales = (1, *config.scales) if task.lr_source else config.stored_scales
        self._writers: dict[int, ShardWriter] = {}
        self._sizes: list[tuple[int, int]] = []
        self._bytes = 0
        self.shards: list[Shard] = []

    def add(self, key: str, block: Block) -> None:
        """Sub-images of one image, in pieces, so that memory does not grow with the image."""
        for piece in block.pieces(_PIECE):
            if self._bytes >= self._task.config.shard_bytes:
                self.finish()
            if not self._writers:
                self._writers = {
                    scale: ShardWriter(self._path(scale), scale, self._task.bits)
                    for scale in self._scales
                }
            for scale, writer in self._writers.items():
                writer.add(key, piece.places, piece.parts[scale])
            self._sizes += [(place.height, place.width) for place in piece.places]
            self._bytes += sum(part.nbytes for part in piece.parts[1])

    def finish(self) -> None:
        """Store the shard that was begun, if any."""
        self.close()
        if not self._sizes:
            return
        number = len(self.shards)
        name = self._task.name + (f".{number}" if number else "")
        columns = {}
        for scale in self._scales:
            kind = "hr" if scale == 1 else f"x{scale}"
            path = self._path(scale)
            columns[str(scale)] = _store(self._target, f"{FOLDER}{name}.{kind}.arrow", path)
            path.unlink()
        self.shards.append(Shard(name=name, sizes=_runs(self._sizes), columns=columns))
        self._sizes, self._bytes = [], 0

    def close(self) -> None:
        """End the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _path(self, scale: int) -> Path:
        return self._folder / f"x{scale}.arrow"


@dataclass
class _Tally:
    """What the images of a task came to."""

    totals: npt.NDArray[Any]
    """Sums and sums of squares per channel, as Python integers: exact at any count."""
    images: int = 0
    pixels: int = 0
    incomplete: int = 0

    def add(self, key: str, blocks: Iterable[Block], columns: _Columns) -> None:
        """Write one image; of one that fails in the middle counts what was written. Raises SkippedError for nothing."""
        taken = windows = missing = count = 0
        sums = np.zeros_like(self.totals)
        try:
            for block in blocks:
                windows, missing = windows + block.windows, missing + block.incomplete
                sums, count = sums + block.sums, count + block.pixels
                if not block.places:
                    continue
                columns.add(key, block)
                taken += block.pictures
            if not taken:
                raise SkippedError(f"all of its {windows} sub-images have missing pixels")
        finally:
            if taken:
                self.images += taken
                self.pixels += count
                self.incomplete += missing
                self.totals += sums


def write_shard(task: ShardTask) -> ShardRecord:
    """Cut the images of one task into shards, store their columns, and last the record."""
    source, target = connect(task.source), connect(task.target)
    failures: list[Failure] = []
    skipped: list[Failure] = []
    tally = _Tally(np.zeros((2, task.channels), dtype=object))
    with tempfile.TemporaryDirectory(prefix="rayscale-shard-") as folder:
        columns = _Columns(task, target, Path(folder))
        with closing(columns):
            for key in task.keys:
                try:
                    tally.add(key, _blocks(source, key, task, Path(folder)), columns)
                except StorageError:
                    raise  # the store, not the image: another try may find it well
                except SkippedError as error:
                    skipped.append(Failure(key=key, error="Skipped", message=str(error)))
                except Exception as error:
                    name = type(error).__name__
                    failures.append(Failure(key=key, error=name, message=str(error)))
            columns.finish()
    record = ShardRecord(
        name=task.name,
        shards=tuple(columns.shards),
        images=tally.images,
        pixels=tally.pixels,
        sums=tuple(int(value) for value in tally.totals[0]),
        squares=tuple(int(value) for value in tally.totals[1]),
        failures=tuple(failures),
        skipped=tuple(skipped),
        incomplete=tally.incomplete,
    )
    target.write(record_key(task.name), record.model_dump_json().encode())
    return record


def _blocks(source: Store, key: str, task: ShardTask, scratch: Path) -> Iterable[Block]:
    expected = Kind(task.channels, task.bits, task.measure)
    if not task.lr_source:
        return cut_image(source, key, task.config, expected, scratch, task.beside.get(key, ()))
    place = connect(task.lr_source)
    lows = {scale: (place, low) for scale, low in task.lr_keys[key].items()}
    return cut_pair(source, key, lows, task.config, expected, task.beside)


def _store(target: Store, key: str, path: Path) -> Column:
    target.write_file(key, path)
    return Column(key=key, bytes=path.stat().st_size, sha256=sha256_of(path))


def _runs(sizes: list[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    runs: list[tuple[int, int, int]] = []
    for height, width in sizes:
        if runs and runs[-1][:2] == (height, width):
            runs[-1] = (height, width, runs[-1][2] + 1)
        else:
            runs.append((height, width, 1))
    return tuple(runs)
