"""From a bucket or folder of images to a dataset: plan, shards side by side, and the commit.

Shards are named by their plan (the images with their version tags, and the configuration). So a second run
finds what a killed one finished, and an older dataset at the same place stays whole until the new manifest
replaces its own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from rayscale.data.config import PrepareConfig
from rayscale.data.listing import Listing
from rayscale.data.manifest import (
    FORMAT,
    Counts,
    Failure,
    Manifest,
    Shard,
    content_digest,
    dataset_store,
)
from rayscale.data.parts import FOLDER as LISTS
from rayscale.data.parts import TABLES, Part, PartsWriter, Table, in_batches, shard_row
from rayscale.data.plan import Plan, plan
from rayscale.data.tasks import FOLDER, ShardRecord, ShardTask, record_key, write_shard
from rayscale.errors import InputError, NotFoundError, StorageError, expect
from rayscale.storage import Store, connect

SHARD = re.compile(rf"{FOLDER}(?P<name>\d{{5,}}-[0-9a-f]{{12}})\.(json|(\d+\.)?(hr|x\d+)\.arrow)")
"""Of what lies in the folder of shards, whatever preparation made it."""
_LIST = re.compile(rf"{LISTS}({'|'.join(TABLES)})-\d{{5,}}-[0-9a-f]{{12}}\.parquet")
_READERS = 8  # records read at a time

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
    config = PrepareConfig() if config is None else config
    expect(config, PrepareConfig, "rayscale.data.PrepareConfig")
    store = dataset_store(target)
    with Listing() as listing:
        planned = plan(connect(source), store, config, listing)
        names = [task.name for task in planned.tasks()]
        finished = _find_finished(store, names)
        if progress:
            progress(len(finished), len(names))
        todo = (task for task in planned.tasks() if task.name not in finished)
        for record in run(write_shard, todo):
            finished.add(record.name)
            if progress:
                progress(len(finished), len(names))
        manifest = _assemble(str(source), planned, store, names)
        manifest.commit(store)
        _delete_others(store, names, manifest)
    return Manifest.load(store)


def _find_finished(target: Store, names: list[str]) -> set[str]:
    """The tasks that an earlier run stored whole."""
    stored = _sizes(target)
    begun = [name for name in names if record_key(name) in stored]
    return {
        record.name
        for record in _read_records(target, begun)
        if record is not None and _is_whole(record, stored)
    }


def _sizes(target: Store) -> dict[str, int]:
    return {entry.key: entry.size for entry in target.list(FOLDER)}


def _is_whole(record: ShardRecord, stored: Mapping[str, int]) -> bool:
    columns = (column for shard in record.shards for column in shard.columns.values())
    return all(stored.get(column.key) == column.bytes for column in columns)


def _read_records(target: Store, names: list[str]) -> Iterator[ShardRecord | None]:
    """The records of tasks in their order; None for one that is gone, damaged or not ours."""

    def read(name: str) -> ShardRecord | None:
        try:
            return ShardRecord.model_validate_json(target.read(record_key(name)))
        except (ValidationError, NotFoundError):
            return None

    with ThreadPoolExecutor(_READERS) as pool:
        for batch in in_batches(names, 16 * _READERS):  # a million sources have some ten thousand
            yield from pool.map(read, batch)


def _delete_others(store: Store, names: list[str], manifest: Manifest) -> None:
    """Delete the shards and lists of older preparations, which no manifest names any longer."""
    kept = set(names)
    for entry in list(store.list(FOLDER)):
        match = SHARD.fullmatch(entry.key)
        if match and match["name"] not in kept:
            store.delete(entry.key)
    lists = {part.key for part in manifest.parts}
    for entry in list(store.list(LISTS)):
        if _LIST.fullmatch(entry.key) and entry.key not in lists:
            store.delete(entry.key)


@dataclass
class _Totals:
    """What the records of all tasks come to."""

    channels: int
    images: int = 0
    pixels: int = 0
    incomplete: int = 0
    sub_images: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first: Failure | None = None

    def __post_init__(self) -> None:
        self.sums, self.squares = [0] * self.channels, [0] * self.channels

    def add(self, record: ShardRecord) -> None:
        """One record."""
        self.images += record.images
        self.pixels += record.pixels
        self.incomplete += record.incomplete
        self.sub_images += sum(shard.rows for shard in record.shards)
        self.sums = [a + b for a, b in zip(self.sums, record.sums, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, record.squares, strict=True)]

    def note(self, failure: Failure) -> None:
        """One image that is left out."""
        self.left_out[failure.error] += 1
        self.first = self.first or failure


def _assemble(source: str, planned: Plan, store: Store, names: list[str]) -> Manifest:
    """The manifest, its lists stored as parts while the records are read; nothing of it grows with the number of images."""
    config, kind = planned.config, planned.kind
    totals = _Totals(kind.channels)
    tables: dict[Table, PartsWriter] = {
        "shards": PartsWriter(store, "shards"),
        "failures": PartsWriter(store, "failures"),
        "skipped": PartsWriter(store, "skipped"),
    }

    def leave_out(table: Literal["failures", "skipped"], failure: Failure) -> None:
        totals.note(failure)
        tables[table].add(failure.model_dump())

    for failure in planned.failures:
        leave_out("failures", failure)
    stored = _sizes(store)

    def read() -> Iterator[Shard]:
        for record in _read_records(store, names):
            if record is None or not _is_whole(record, stored):
                raise StorageError(
                    f"shards of {store.uri} have disappeared: another preparation of the same place has finished; "
                    "run the same command again, or choose another target"
                )
            totals.add(record)
            for failure in record.failures:
                leave_out("failures", failure)
            for failure in record.skipped:
                leave_out("skipped", failure)
            for shard in record.shards:
                tables["shards"].add(shard_row(shard.name, shard.sizes, shard.columns))
                yield shard

    draft = Manifest(
        format=FORMAT,
        source=source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=config,
        channels=kind.channels,
        bits=16 if kind.bits == 16 else 8,
        scales=config.scales,
        mean=(),
        deviation=(),
        counts=Counts(
            images=0, sub_images=0, pixels=0, failed=0, skipped=0, ignored=planned.ignored
        ),
        lr="pairs" if planned.lr else "bicubic" if config.degradation.is_bicubic else "made",
        degradation=config.degradation,
        digest="",
    )
    digest = content_digest(draft, read())
    if not totals.pixels:
        assert totals.first is not None
        kinds = ", ".join(f"{n} {name}" for name, n in totals.left_out.items())
        raise InputError(
            f"none of the images of {source} can be used ({kinds}); {totals.first.key}: {totals.first.message}"
        )
    return _fill(draft, totals, digest, [p for table in tables.values() for p in table.finish()])


def _fill(draft: Manifest, totals: _Totals, digest: str, parts: list[Part]) -> Manifest:
    pixels, peak = totals.pixels, draft.peak
    rows = {table: sum(part.rows for part in parts if part.table == table) for table in TABLES}
    counts = draft.counts.model_copy(
        update={
            "images": totals.images,
            "sub_images": totals.sub_images,
            "pixels": pixels,
            "failed": rows["failures"],
            "skipped": rows["skipped"],
            "incomplete": totals.incomplete,
        }
    )
    return draft.model_copy(
        update={
            "mean": tuple(total / (pixels * peak) for total in totals.sums),
            # n * squares - sums^2 is exact in integers; the usual mean of squares minus square loses digits.
            "deviation": tuple(
                math.sqrt(pixels * square - total * total) / (pixels * peak)
                for total, square in zip(totals.sums, totals.squares, strict=True)
            ),
            "counts": counts,
            "digest": digest,
            "parts": tuple(parts),
        }
    )
