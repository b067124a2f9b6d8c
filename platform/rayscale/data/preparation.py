"""From a bucket or folder of images to a dataset: plan, shards side by side, and the commit.

Shards are named by their plan (the images with their version tags, and the configuration). So a second run
finds what a killed one finished, and an older dataset at the same place stays whole until the new manifest
replaces its own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from rayscale.data.config import PrepareConfig
from rayscale.data.manifest import FORMAT, Counts, Manifest, content_digest, dataset_store
from rayscale.data.plan import Plan, plan
from rayscale.data.tasks import FOLDER, ShardRecord, ShardTask, write_shard
from rayscale.errors import InputError, StorageError, expect
from rayscale.storage import Store, connect

_SHARD = re.compile(rf"{FOLDER}(?P<name>\d{{5,}}-[0-9a-f]{{12}})\.(json|(hr|x\d+)\.arrow)")

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
    planned = plan(connect(source), store, config)
    tasks = planned.tasks
    records = _find_finished(store, tasks)
    todo = [task for task in tasks if task.name not in records]
    if progress:
        progress(len(records), len(tasks))
    for record in run(write_shard, todo):
        records[record.shard.name] = record
        if progress:
            progress(len(records), len(tasks))
    ordered = [records[task.name] for task in tasks]
    manifest = _assemble(str(source), planned, ordered)
    if len(_find_finished(store, tasks)) < len(tasks):
        raise StorageError(
            f"shards of {store.uri} have disappeared: another preparation of the same place has finished; "
            "run the same command again, or choose another target"
        )
    manifest.commit(store)
    _delete_others(store, tasks)
    return manifest


def _find_finished(target: Store, tasks: list[ShardTask]) -> dict[str, ShardRecord]:
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
    """Delete the shards of older preparations, which no manifest names any longer."""
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
        lr="pairs" if task.lr_source else "bicubic" if config.degradation.is_bicubic else "made",
        degradation=config.degradation,
        digest="",
    )
    return manifest.model_copy(update={"digest": content_digest(manifest)})
