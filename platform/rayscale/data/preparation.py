"""From a bucket or folder of images to a dataset: plan, shards side by side, and the commit.

Shards are named by their plan (the images with their version tags, and the configuration). So a second run
finds what a killed one finished, and an older dataset at the same place stays whole until the new manifest
replaces its own.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from rayscale.data.config import PrepareConfig
from rayscale.data.cutting import columns, crop, cuts, take
from rayscale.data.manifest import (
    FORMAT,
    Column,
    Counts,
    Failure,
    Manifest,
    Shard,
    content_digest,
    dataset_store,
)
from rayscale.data.pictures import kind, pictures
from rayscale.data.shards import ShardWriter
from rayscale.errors import InputError, NotFoundError, RayscaleError, StorageError, UnsupportedError
from rayscale.imaging import EXTENSIONS, ending_of, read_image
from rayscale.storage import Entry, Store, connect

Pixels = npt.NDArray[Any]
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
    """The image whose channels and bits the others must have; empty when they were configured."""


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


Run = Callable[[Callable[[ShardTask], ShardRecord], Iterable[ShardTask]], Iterable[ShardRecord]]
Progress = Callable[[int, int], None]


def prepare(
    source: str | Path,
    target: str | Path,
    config: PrepareConfig | None = None,
    run: Run = map,
    progress: Progress | None = None,
) -> Manifest:
    """Make a dataset of the images below ``source`` (any format that is read) and commit it at ``target``.

    ``run(function, tasks)`` executes the shards and yields their records in any order: ``map`` here, or side by
    side (``jobs/prepare_dataset.py``). ``progress(done, total)`` counts shards, those of an earlier run included.
    Images that cannot be used (damaged, of other channels or depth, over RAYSCALE_MAX_INPUT_PIXELS) are listed in the manifest's ``failures``, too small ones in ``skipped``.

    Raises ``NotFoundError`` where there is no image and ``InputError`` when none can be used; then nothing is
    committed.
    """
    config = config or PrepareConfig()
    store = dataset_store(target)
    tasks, ignored = plan(connect(source), store, config)
    records = _finished(store, tasks)
    todo = [task for task in tasks if task.name not in records]
    if progress:
        progress(len(records), len(tasks))
    for record in run(write_shard, todo):
        records[record.shard.name] = record
        if progress:
            progress(len(records), len(tasks))
    ordered = [records[task.name] for task in tasks]
    manifest = _assemble(str(source), config, tasks[0], ordered, ignored)
    manifest.commit(store)
    return manifest


def plan(source: Store, target: Store, config: PrepareConfig) -> tuple[list[ShardTask], int]:
    """The shards of a source in listing order, and the number of objects that are left aside."""
    listing = list(source.list())
    entries = [
        entry for entry in listing if ending_of(entry.key) and not config.excludes(entry.key)
    ]
    if not entries:
        raise NotFoundError(
            f"{source.uri} has no image among its {len(listing)} objects; "
            f"expected names that end in {', '.join(sorted(EXTENSIONS))}"
        )
    channels, bits, measure = _kind(source, entries, config)
    tasks: list[ShardTask] = []
    for first in range(0, len(entries), config.images_per_shard):
        part = entries[first : first + config.images_per_shard]
        kind = (FORMAT, config.model_dump_json(), channels, bits, measure, source.uri)
        text = repr((kind, [(entry.key, entry.etag, entry.size) for entry in part]))
        name = f"{len(tasks):05d}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        tasks.append(
            ShardTask(
                name=name,
                source=source.uri,
                target=target.uri,
                keys=tuple(entry.key for entry in part),
                config=config,
                channels=channels,
                bits=bits,
                measure=measure,
            )
        )
    return tasks, len(listing) - len(entries)


def write_shard(task: ShardTask) -> ShardRecord:
    """Cut the images of one task into a shard, store its columns, and last its record."""
    source, target = connect(task.source), connect(task.target)
    failures: list[Failure] = []
    skipped: list[Failure] = []
    sizes: list[tuple[int, int]] = []
    totals = np.zeros((2, task.channels), dtype=object)  # Python integers: exact at any count
    images = pixel_count = 0
    scales = (1, *task.config.scales)
    with tempfile.TemporaryDirectory(prefix="rayscale-shard-") as folder:
        paths = {scale: Path(folder, f"x{scale}.arrow") for scale in scales}
        with ExitStack() as stack:
            writers = {
                scale: stack.enter_context(ShardWriter(path, scale, task.bits))
                for scale, path in paths.items()
            }
            for key in task.keys:
                try:
                    found = _read(source, key, task)
                except StorageError:
                    raise  # the store, not the image: another try may find it well
                except Exception as error:
                    failures.append(_failure(key, error))
                    continue
                used = 0
                for whole in found:
                    pixels = crop(whole, task.config.grain)
                    if min(pixels.shape[:2]) < max(task.config.minimum, task.config.grain):
                        continue
                    height, width = pixels.shape[:2]
                    places = cuts(height, width, task.config.size, task.config.step)
                    for scale, version in columns(pixels, task.config.scales):
                        writers[scale].add(
                            key, places, [take(version, place, scale) for place in places]
                        )
                    sizes += [(place.height, place.width) for place in places]
                    totals += _sums(pixels)
                    used += 1
                    pixel_count += pixels.shape[0] * pixels.shape[1]
                images += used
                if not used:
                    skipped.append(_too_small(key, found[0], task.config))
        stored = {
            str(scale): _store(
                target, f"{FOLDER}{task.name}.{'hr' if scale == 1 else f'x{scale}'}.arrow", path
            )
            for scale, path in paths.items()
            if images
        }
    record = ShardRecord(
        shard=Shard(name=task.name, sizes=_runs(sizes), columns=stored),
        images=images,
        pixels=pixel_count,
        sums=tuple(int(value) for value in totals[0]),
        squares=tuple(int(value) for value in totals[1]),
        failures=tuple(failures),
        skipped=tuple(skipped),
    )
    target.write(f"{FOLDER}{task.name}.json", record.model_dump_json().encode())
    return record


def _kind(
    source: Store, entries: list[Entry], config: PrepareConfig
) -> tuple[int, Literal[8, 16], str]:
    """Channels and bits of the dataset, and the image that decided them."""
    channels, bits = config.channels, config.bits
    if channels is not None and bits is not None:
        return channels, 16 if bits == 16 else 8, ""
    first: RayscaleError | None = None
    for entry in entries:
        try:
            image = read_image(source.read(entry.key))
        except (InputError, NotFoundError) as error:
            first = first or error
            continue
        own_channels, own_bits = kind(image, config.bands)
        bits = bits or own_bits
        return channels or own_channels, 16 if bits == 16 else 8, entry.key
    raise InputError(
        f"none of the {len(entries)} images of {source.uri} can be read; {entries[0].key}: {first}"
    )


def _read(source: Store, key: str, task: ShardTask) -> list[Pixels]:
    image = read_image(source.read(key))
    found = pictures(image, task.config.bands)
    channels, bits = kind(image, task.config.bands)
    if (channels, bits) != (task.channels, task.bits):
        like = f" (as {task.measure})" if task.measure else ""
        raise UnsupportedError(
            f"has {channels} channels of {bits} bits in a dataset of {task.channels} channels of "
            f"{task.bits} bits{like}; convert it, or prepare such images as a dataset of their own with "
            f"channels {channels} and bits {bits}"
        )
    return found


def _failure(key: str, error: Exception) -> Failure:
    return Failure(key=key, error=type(error).__name__, message=str(error))


def _too_small(key: str, pixels: Pixels, config: PrepareConfig) -> Failure:
    height, width = pixels.shape[:2]
    return Failure(
        key=key,
        error="Skipped",
        message=f"{width}x{height} pixels, cropped to a multiple of {config.grain}, are less than the minimum of "
        f"{config.minimum}",
    )


def _sums(pixels: Pixels) -> npt.NDArray[Any]:
    """Sum and sum of squares per channel, ``(2, C)`` of Python integers, by histogram: exact."""
    rows = []  # int64 is enough: a channel of 2^31 16-bit pixels would be needed to leave it
    for channel in range(pixels.shape[2]):
        histogram = np.bincount(pixels[:, :, channel].ravel())
        values = np.flatnonzero(histogram)
        weights = histogram[values]
        rows.append([int((weights * values).sum()), int((weights * values * values).sum())])
    return np.array(rows, dtype=object).T


def _store(target: Store, key: str, path: Path) -> Column:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    target.write_file(key, path)
    return Column(key=key, bytes=path.stat().st_size, sha256=sha256)


def _runs(sizes: list[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    runs: list[tuple[int, int, int]] = []
    for height, width in sizes:
        if runs and runs[-1][:2] == (height, width):
            runs[-1] = (height, width, runs[-1][2] + 1)
        else:
            runs.append((height, width, 1))
    return tuple(runs)


def _finished(target: Store, tasks: list[ShardTask]) -> dict[str, ShardRecord]:
    """Records of the shards that an earlier run stored whole."""
    stored = {entry.key: entry.size for entry in target.list(FOLDER)}
    found = {}
    for task in tasks:
        key = f"{FOLDER}{task.name}.json"
        if key not in stored:
            continue
        try:
            record = ShardRecord.model_validate_json(target.read(key))
        except ValidationError:
            continue  # not ours, or damaged: made again
        if all(stored.get(column.key) == column.bytes for column in record.shard.columns.values()):
            found[task.name] = record
    return found


def _assemble(
    source: str, config: PrepareConfig, task: ShardTask, records: list[ShardRecord], ignored: int
) -> Manifest:
    failures = tuple(failure for record in records for failure in record.failures)
    skipped = tuple(failure for record in records for failure in record.skipped)
    pixels = sum(record.pixels for record in records)
    if not pixels:
        kinds = ", ".join(
            f"{n} {name}" for name, n in Counter(f.error for f in (*failures, *skipped)).items()
        )
        first = (*failures, *skipped)[0]
        raise InputError(
            f"none of the images of {source} can be used ({kinds}); {first.key}: {first.message}"
        )
    peak = (1 << task.bits) - 1
    sums = [sum(record.sums[c] for record in records) for c in range(task.channels)]
    squares = [sum(record.squares[c] for record in records) for c in range(task.channels)]
    shards = tuple(record.shard for record in records if record.shard.rows)
    manifest = Manifest(
        format=FORMAT,
        source=source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=config,
        channels=task.channels,
        bits=task.bits,
        scales=config.scales,
        mean=tuple(total / (pixels * peak) for total in sums),
        # n * squares - sums^2 is exact in integers; the usual mean of squares minus square loses digits.
        deviation=tuple(
            math.sqrt(pixels * square - total * total) / (pixels * peak)
            for total, square in zip(sums, squares, strict=True)
        ),
        counts=Counts(
            images=sum(record.images for record in records),
            sub_images=sum(shard.rows for shard in shards),
            pixels=pixels,
            failed=len(failures),
            skipped=len(skipped),
            ignored=ignored,
        ),
        shards=shards,
        failures=failures,
        skipped=skipped,
        digest="",
    )
    return manifest.model_copy(update={"digest": content_digest(manifest)})
