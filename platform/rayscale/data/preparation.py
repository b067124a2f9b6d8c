"""From a bucket or folder of images to a dataset: plan, shards side by side, and the commit.

Shards are named by their plan (the images with their version tags, and the configuration). So a second run
finds what a killed one finished, and an older dataset at the same place stays whole until the new manifest
replaces its own.
"""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from rayscale.data.config import PrepareConfig
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
from rayscale.data.shards import ShardWriter
from rayscale.data.sources import Block, Kind, SkippedError, cut_image, cut_pair, kind_of
from rayscale.errors import ConfigError, InputError, NotFoundError, RayscaleError, StorageError
from rayscale.files import sha256_of
from rayscale.imaging import EXTENSIONS, is_image, probe
from rayscale.imaging.sidecars import names_beside
from rayscale.pairs import Pairing, Partners, find_pairs, without_lr
from rayscale.settings import MIB
from rayscale.storage import Entry, Store, connect, is_hidden

Pixels = npt.NDArray[Any]
FOLDER = "shards/"
_SHARD = re.compile(rf"{FOLDER}(?P<name>\d{{5,}}-[0-9a-f]{{12}})\.(json|(hr|x\d+)\.arrow)")
_SOURCE_BYTES = (
    256 * MIB
)  # of the files of one shard, which takes several times as much when they are compressed scenes
_SAMPLE = 15  # images whose channels and bits are looked at; more would read a large bucket twice


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


class Plan(NamedTuple):
    """What there is to do, and what is not in it: images that cannot be used, and the number of other objects."""

    config: PrepareConfig
    tasks: list[ShardTask]
    failures: list[Failure]
    ignored: int


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
    side (``rayscale prepare``). ``progress(done, total)`` counts shards, those of an earlier run included.
    Images that cannot be used (damaged, of other channels or depth, over RAYSCALE_MAX_INPUT_PIXELS) are listed in the manifest's ``failures``, too small ones in ``skipped``.

    Raises ``NotFoundError`` where there is no image and ``InputError`` when none can be used; then nothing is
    committed.
    """
    store = dataset_store(target)
    planned = plan(connect(source), store, config or PrepareConfig())
    tasks = planned.tasks
    records = _finished(store, tasks)
    todo = [task for task in tasks if task.name not in records]
    if progress:
        progress(len(records), len(tasks))
    for record in run(write_shard, todo):
        records[record.shard.name] = record
        if progress:
            progress(len(records), len(tasks))
    ordered = [records[task.name] for task in tasks]
    manifest = _assemble(str(source), planned, ordered)
    if len(_finished(store, tasks)) < len(tasks):
        raise StorageError(
            f"shards of {store.uri} are gone that were there before: another preparation of the same place has ended; "
            "run the same command again, or choose a place of its own"
        )
    manifest.commit(store)
    _delete_others(store, tasks)
    return manifest


def plan(source: Store, target: Store, config: PrepareConfig) -> Plan:
    """The shards of a source in listing order; errors as of :func:`prepare`."""
    listing = list(source.list())
    entries = [
        entry
        for entry in listing
        if not is_hidden(entry.key)
        and is_image(entry.key, partial(source.read_range, entry.key, 0))
    ]
    lr = None if config.lr in ("auto", "made") else connect(config.lr)
    pairing = None if config.lr == "made" else find_pairs(source, lr, listing)
    failures: list[Failure] = []
    partners: dict[str, Partners] = {}
    scale: int | None = None
    if pairing is not None:
        config, scale = _with_scales_of(pairing, source, lr or source, config)
        failures += [_unpaired(key, why) for key, why in sorted(pairing.alone.items())]
        for pair in pairing.pairs:
            lacking = [s for s in config.scales if _low(pair, s, scale) is None]
            if not lacking:
                partners[pair.hr.key] = pair
            elif pair.bound is None:
                failures.append(_unpaired(pair.hr.key, f"has no LR image at x{lacking[0]}"))
        entries = sorted(pair.hr for pair in partners.values())
    else:
        entries = without_lr(entries)
    entries = [entry for entry in entries if not config.excludes(entry.key)]
    failures = [failure for failure in failures if not config.excludes(failure.key)]
    there = {entry.key for entry in listing}
    if not entries:
        raise NotFoundError(
            f"{source.uri} has no image among its {len(listing)} objects; "
            f"expected names that end in {', '.join(sorted(EXTENSIONS))}"
        )
    expected = _kind(source, entries, config)
    lr_source = "" if pairing is None else (lr or source).uri
    tasks: list[ShardTask] = []
    for part in _parts(entries, config.images_per_shard):
        lows = {
            entry.key: {s: _low(partners[entry.key], s, scale) for s in config.scales}
            for entry in part
            if entry.key in partners
        }
        keys = [
            *(e.key for e in part),
            *(low.key for each in lows.values() for low in each.values() if low),
        ]
        beside = {key: found for key in keys if (found := names_beside(key, there.__contains__))}
        kind = (FORMAT, config.model_dump_json(), *vars(expected).values(), source.uri, lr_source)
        text = repr((kind, [(e.key, e.etag, e.size) for e in part], sorted(lows.items())))
        text += repr(beside) if beside else ""
        name = f"{len(tasks):05d}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        tasks.append(
            ShardTask(
                name=name,
                source=source.uri,
                target=target.uri,
                keys=tuple(entry.key for entry in part),
                config=config,
                channels=expected.channels,
                bits=16 if expected.bits == 16 else 8,
                measure=expected.measure,
                beside=beside,
                lr_source=lr_source,
                lr_keys={
                    key: {s: low.key for s, low in versions.items() if low}
                    for key, versions in lows.items()
                },
            )
        )
    used = {entry.key for entry in entries} | {failure.key for failure in failures}
    used |= {key for task in tasks for keys in task.lr_keys.values() for key in keys.values()}
    return Plan(config, tasks, failures, len(there - used))


def _parts(entries: list[Entry], most: int) -> Iterator[list[Entry]]:
    """Runs of at most so many images, and of files that are not too large together: a scene may be a shard of its own."""
    part: list[Entry] = []
    for entry in entries:
        if part and (len(part) == most or sum(e.size for e in part) + entry.size > _SOURCE_BYTES):
            yield part
            part = []
        part.append(entry)
    yield part


def _with_scales_of(
    pairing: Pairing, source: Store, lr: Store, config: PrepareConfig
) -> tuple[PrepareConfig, int | None]:
    """The configuration with the scales that the pairs have, and the scale of LR images whose names tell none."""
    wanted = config.scales if "scales" in config.model_fields_set else ()
    untold = next((pair for pair in pairing.pairs if None in pair.lr), None)
    scale = None
    if untold is not None:
        scale = wanted[0] if len(wanted) == 1 else _measure_scale(source, lr, untold)
    known = sorted({*pairing.scales, *([scale] if scale else [])})
    if absent := [s for s in wanted if s not in known]:
        raise ConfigError(
            f"{source.uri} has LR images of x{', x'.join(map(str, known))}, none of x{absent[0]}; give "
            f"--scales {' '.join(map(str, known))}, or --lr made to make LR images of the HR ones"
        )
    scales = wanted or tuple(known)
    if len(scales) > 1 and any(pair.bound for pair in pairing.pairs):
        raise ConfigError(
            f"{source.uri} has HR images of its own for each scale; prepare one of them, as --scales {scales[0]}"
        )
    return PrepareConfig.create(**{**config.model_dump(), "scales": scales}), scale


def _measure_scale(source: Store, lr: Store, pair: Partners) -> int:
    """By the sizes of a pair; the cut of :func:`rayscale.pairs.fit` is allowed for."""
    hr, low = probe(source.read(pair.hr.key)), probe(lr.read(pair.lr[None].key))
    scale = max(1, round(hr.width / max(low.width, 1)))
    if scale < 2:
        raise InputError(
            f"{pair.hr.key} has {hr.width}x{hr.height} pixels and its LR image {pair.lr[None].key} {low.width}x{low.height}: "
            "no scale of 2 or more lies between them"
        )
    return scale


def _low(pair: Partners, scale: int, untold: int | None) -> Entry | None:
    """The LR image of a scale; ``untold`` is that of images whose names tell none."""
    return pair.lr.get(scale) or (pair.lr.get(None) if scale == untold else None)


def write_shard(task: ShardTask) -> ShardRecord:
    """Cut the images of one task into a shard, store its columns, and last its record."""
    source, target = connect(task.source), connect(task.target)
    failures: list[Failure] = []
    skipped: list[Failure] = []
    sizes: list[tuple[int, int]] = []
    totals = np.zeros((2, task.channels), dtype=object)  # Python integers: exact at any count
    images = pixel_count = incomplete = 0
    scales = (1, *task.config.scales)
    with tempfile.TemporaryDirectory(prefix="rayscale-shard-") as folder:
        paths = {scale: Path(folder, f"x{scale}.arrow") for scale in scales}
        with ExitStack() as stack:
            writers = {
                scale: stack.enter_context(ShardWriter(path, scale, task.bits))
                for scale, path in paths.items()
            }
            for key in task.keys:
                taken = windows = missing = 0
                sums, count = np.zeros_like(totals), 0
                try:
                    for block in _blocks(source, key, task, Path(folder)):
                        windows, missing = windows + block.windows, missing + block.incomplete
                        sums, count = sums + block.sums, count + block.pixels
                        if not block.places:
                            continue
                        for scale, writer in writers.items():
                            writer.add(key, block.places, block.parts[scale])
                        sizes += [(place.height, place.width) for place in block.places]
                        taken += block.pictures
                    if not taken:
                        raise SkippedError(f"all of its {windows} sub-images have missing pixels")
                except StorageError:
                    raise  # the store, not the image: another try may find it well
                except SkippedError as error:
                    skipped.append(Failure(key=key, error="Skipped", message=str(error)))
                except Exception as error:
                    failures.append(_failure(key, error))
                if taken:
                    images, pixel_count, incomplete = (
                        images + taken, pixel_count + count, incomplete + missing
                    )  # fmt: skip
                    totals += sums
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
        incomplete=incomplete,
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


def _kind(source: Store, entries: list[Entry], config: PrepareConfig) -> Kind:
    """Channels and bits of the dataset: those of most images, of which a sample is looked at."""
    if config.channels is not None and config.bits is not None:
        return Kind(config.channels, config.bits)
    spread = -(-len(entries) // _SAMPLE)
    sample = entries[::spread]
    votes: Counter[tuple[int, int]] = Counter()
    first: RayscaleError | None = None
    with tempfile.TemporaryDirectory(prefix="rayscale-shard-") as folder:
        for number, entry in enumerate([*sample, *(e for e in entries if e not in sample)], 1):
            if number > len(sample) and votes:
                break
            try:
                own = kind_of(source, entry.key, config, Path(folder))
            except (InputError, NotFoundError) as error:
                first = first or error
                continue
            votes[own] += 1
            if 2 * votes[own] > len(sample):
                break
    if not votes:
        raise InputError(
            f"none of the {len(entries)} images of {source.uri} can be read; {entries[0].key}: {first}"
        )
    fitting = Counter(
        {
            (channels, bits): count
            for (channels, bits), count in votes.items()
            if config.channels in (None, channels) and config.bits in (None, bits)
        }
    )
    ((channels, bits), count), *_ = (fitting or votes).most_common(1)
    looked = sum(votes.values())
    measure = "the one image" if looked == 1 else f"{count} of the {looked} images looked at"
    if config.channels is not None:
        measure = ""
    return Kind(config.channels or channels, config.bits or bits, measure)


def _unpaired(key: str, why: str) -> Failure:
    return Failure(key=key, error="Unpaired", message=why)


def _failure(key: str, error: Exception) -> Failure:
    return Failure(key=key, error=type(error).__name__, message=str(error))


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


def _delete_others(store: Store, tasks: list[ShardTask]) -> None:
    """Delete the shards of older preparations, which no manifest names any more."""
    names = {task.name for task in tasks}
    for entry in list(store.list(FOLDER)):
        match = _SHARD.fullmatch(entry.key)
        if match and match["name"] not in names:
            store.delete(entry.key)


def _assemble(source: str, planned: Plan, records: list[ShardRecord]) -> Manifest:
    config, task = planned.config, planned.tasks[0]
    failures = (*planned.failures, *(failure for record in records for failure in record.failures))
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
            ignored=planned.ignored,
            incomplete=sum(record.incomplete for record in records),
        ),
        shards=shards,
        failures=failures,
        skipped=skipped,
        lr="pairs" if task.lr_source else "bicubic",
        digest="",
    )
    return manifest.model_copy(update={"digest": content_digest(manifest)})
