"""One task of a preparation: its images cut into the columns of a shard, and the record that commits it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
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
from rayscale.storage import Store, connect

FOLDER = "shards/"


class _Message(BaseModel):
    """Travels between processes as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardTask(_Message):
    """The images that become one shard; everything a worker needs."""

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
    """What a worker made of a task; stored beside the shard as its commit."""

    shard: Shard
    images: int
    pixels: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]
    """Exact sums over the HR pixels per channel, so that the order of addition cannot matter."""
    failures: tuple[Failure, ...]
    skipped: tuple[Failure, ...]
    incomplete: int


@dataclass
class _Tally:
    """What the images of a shard came to."""

    totals: npt.NDArray[Any]
    """Sums and sums of squares per channel, as Python integers: exact at any count."""
    images: int = 0
    pixels: int = 0
    incomplete: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def add(self, key: str, blocks: Iterable[Block], writers: Mapping[int, ShardWriter]) -> None:
        """Write one image; of one that fails in the middle counts what was written. Raises SkippedError for nothing."""
        taken = windows = missing = count = 0
        sums = np.zeros_like(self.totals)
        try:
            for block in blocks:
                windows, missing = windows + block.windows, missing + block.incomplete
                sums, count = sums + block.sums, count + block.pixels
                if not block.places:
                    continue
                for scale, writer in writers.items():
                    writer.add(key, block.places, block.parts[scale])
                self.sizes += [(place.height, place.width) for place in block.places]
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
    """Cut the images of one task into a shard, store its columns, and last its record."""
    source, target = connect(task.source), connect(task.target)
    failures: list[Failure] = []
    skipped: list[Failure] = []
    tally = _Tally(np.zeros((2, task.channels), dtype=object))
    scales = task.config.stored_scales if not task.lr_source else (1, *task.config.scales)
    with tempfile.TemporaryDirectory(prefix="rayscale-shard-") as folder:
        paths = {scale: Path(folder, f"x{scale}.arrow") for scale in scales}
        with ExitStack() as stack:
            writers = {
                scale: stack.enter_context(ShardWriter(path, scale, task.bits))
                for scale, path in paths.items()
            }
            for key in task.keys:
                try:
                    tally.add(key, _blocks(source, key, task, Path(folder)), writers)
                except StorageError:
                    raise  # the store, not the image: another try may find it well
                except SkippedError as error:
                    skipped.append(Failure(key=key, error="Skipped", message=str(error)))
                except Exception as error:
                    name = type(error).__name__
                    failures.append(Failure(key=key, error=name, message=str(error)))
        stored = {
            str(scale): _store(
                target, f"{FOLDER}{task.name}.{'hr' if scale == 1 else f'x{scale}'}.arrow", path
            )
            for scale, path in paths.items()
            if tally.images
        }
    record = ShardRecord(
        shard=Shard(name=task.name, sizes=_runs(tally.sizes), columns=stored),
        images=tally.images,
        pixels=tally.pixels,
        sums=tuple(int(value) for value in tally.totals[0]),
        squares=tuple(int(value) for value in tally.totals[1]),
        failures=tuple(failures),
        skipped=tuple(skipped),
        incomplete=tally.incomplete,
    )
    target.write(f"{FOLDER}{task.name}.json", record.model_dump_json().encode())
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
