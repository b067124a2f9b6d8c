"""A preparation whose memory grows neither with the number of sources nor with their size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.data.rows import SMALL, Images, Noise, rows_of

from rayscale import resampling
from rayscale.data import Manifest, PrepareConfig, listing, parts, plan, prepare, tasks
from rayscale.data.listing import Listing
from rayscale.data.shards import open_shard
from rayscale.errors import StorageError
from rayscale.storage import Entry, connect
from rayscale.storage.local import LocalStore


def peak_of(work: Callable[[], Any]) -> tuple[Any, int]:
    """What it gives, and the most bytes that Python and numpy held for it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        return work(), tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


class Counted(Entry):
    """Counts those that are alive."""

    alive = most = 0

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= 1


class Archive(LocalStore):
    """A source of many objects that nobody reads."""

    def list(self, prefix: str = "", *, folders: bool = False) -> Iterator[Entry]:
        for number in range(3_000):
            yield Counted(f"scenes/{number:09d}.tif", 1_000, f"{number:032x}")


def test_a_plan_holds_no_list_of_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the images of one shard are there at a time."""
    monkeypatch.setattr(listing, "Entry", Counted)
    config = PrepareConfig(channels=3, bits=8)
    with Listing() as objects:
        planned = plan.plan(Archive(tmp_path), connect(tmp_path / "set"), config, objects)
        assert sum(len(task.keys) for task in planned.tasks()) == 3_000
        assert planned.ignored == 0
    assert 0 < Counted.most <= 2 * config.images_per_shard + 5


def test_a_listing_knows_keys_and_order(tmp_path: Path) -> None:
    entries = [Entry(key, size, "") for size, key in enumerate(["b", "a/ä.png", "a b.tif", "Z"])]
    with Listing() as objects:
        objects.fill(entries)
        assert [entry.key for entry in objects] == sorted(entry.key for entry in entries)
        assert "a/ä.png" in objects
        assert "c" not in objects
        objects.choose(entries * 2)
        assert (len(objects), objects.chosen) == (4, 8)
        assert list(objects.images()) == entries * 2
        assert [e.key for e in objects.images(3)] == ["b", "Z", "a b.tif"]
        assert [e.key for e in objects.images(4, others=True)] == 2 * ["a/ä.png", "a b.tif", "Z"]


def test_a_picture_is_cut_in_little_more_than_its_own_pixels(
    images: Images, make_noise: Noise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Floats of the whole picture would take eight times its bytes, copies of all sub-images three times."""
    whole = make_noise(1500, 1500, 3)
    folder = images({"a.png": whole})
    monkeypatch.setattr(resampling, "_BAND", 1 << 16)
    monkeypatch.setattr(tasks, "_PIECE", 1 << 20)
    prepare(folder, tmp_path / "warm", PrepareConfig(scales=(2,)))
    config = PrepareConfig(scales=(2,))
    manifest, peak = peak_of(lambda: prepare(folder, tmp_path / "set", config))
    assert manifest.counts.pixels == 1500 * 1500
    # Whole, in LR pixels, a piece with its copies, and what the PNG takes.
    assert peak < 4.5 * whole.nbytes
    small = PrepareConfig(scales=(2,), size=480, step=288)
    monkeypatch.undo()
    assert prepare(folder, tmp_path / "one", small).counts == manifest.counts


def test_pieces_and_bands_change_no_pixel(
    images: Images, make_noise: Noise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = images({"a.png": make_noise(200, 180), "b.png": make_noise(70, 90, seed=1)})
    whole = prepare(folder, tmp_path / "whole", SMALL)
    monkeypatch.setattr(resampling, "_BAND", 1 << 10)
    monkeypatch.setattr(tasks, "_PIECE", 10_000)
    again = prepare(folder, tmp_path / "pieces", SMALL)
    assert (again.mean, again.deviation, again.counts) == (
        whole.mean,
        whole.deviation,
        whole.counts,
    )
    for scale in (2, 3, 4):
        for one, other in zip(
            rows_of(tmp_path / "whole", scale), rows_of(tmp_path / "pieces", scale), strict=True
        ):
            assert one[:2] == other[:2]
            assert np.array_equal(one[2], other[2])
            assert np.array_equal(one[3], other[3])


def test_shards_are_even_in_bytes(images: Images, make_noise: Noise, tmp_path: Path) -> None:
    """One image is divided over shards, several share one; each but the last of a task has as much as the others."""
    folder = images({f"{n}.png": make_noise(150, 150, seed=n) for n in range(4)})
    limit, one = 60_000, 48 * 48 * 3
    config = SMALL.model_copy(update={"shard_bytes": limit, "images_per_shard": 4})
    tasks_piece = tasks._PIECE
    try:
        tasks._PIECE = one
        manifest = prepare(folder, tmp_path / "set", config)
    finally:
        tasks._PIECE = tasks_piece
    sizes = [
        sum(view.nbytes for view in open_shard(tmp_path / "set" / shard.columns["1"].key))
        for shard in manifest.shards
    ]
    assert len(sizes) > 3
    assert all(limit <= size < limit + one for size in sizes[:-1])
    whole = prepare(folder, tmp_path / "whole", SMALL.model_copy(update={"images_per_shard": 4}))
    assert whole.counts == manifest.counts
    assert (tmp_path / "set" / manifest.shards[1].columns["2"].key).is_file()
    # Another preparation at the place deletes all of them.
    prepare(folder, tmp_path / "set", SMALL)
    left = {path.name for path in (tmp_path / "set" / "shards").glob("*.arrow")}
    kept = Manifest.load(tmp_path / "set").shards
    assert left == {Path(c.key).name for shard in kept for c in shard.columns.values()}


@pytest.fixture
def in_parts(
    images: Images, make_noise: Noise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A dataset of five shards, a failure and a small image, with lists of two rows a part."""
    files: dict[str, Any] = {f"{n}.png": make_noise(48, 48 + 12 * n, seed=n) for n in range(10)}
    folder = images({**files, "bad.png": b"no", "small.png": make_noise(10, 10)})
    monkeypatch.setattr(parts, "ROWS", 2)
    monkeypatch.setattr(parts.PartsWriter.__init__, "__defaults__", (2,))
    prepare(folder, tmp_path / "set", SMALL)
    return tmp_path / "set"


def test_the_lists_of_a_manifest_are_tables_in_parts(in_parts: Path) -> None:
    manifest = Manifest.load(in_parts)
    assert manifest.format == 2
    assert [part.rows for part in manifest.parts if part.table == "shards"] == [2, 2, 1]
    names = [
        name
        for path in sorted((in_parts / "manifest").glob("shards-*.parquet"))
        for name in pq.read_table(path).column("name").to_pylist()
    ]
    assert names == [shard.name for shard in manifest.shards]
    (failures,) = (in_parts / "manifest").glob("failures-*.parquet")
    assert pq.read_table(failures).to_pylist()[0]["key"] == "bad.png"
    assert [failure.key for failure in manifest.failures] == ["bad.png"]
    assert [failure.key for failure in manifest.skipped] == ["small.png"]
    assert b"shards-00002" in (in_parts / "manifest.json").read_bytes()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1")])
def test_a_damaged_part_is_told(in_parts: Path, damage: Callable[[Path], Any]) -> None:
    damage(next((in_parts / "manifest").glob("shards-00001-*.parquet")))
    with pytest.raises(StorageError, match=r"shards-00001-.* is gone or damaged"):
        Manifest.load(in_parts)


def test_lists_of_an_older_dataset_go_with_it(
    in_parts: Path, images: Images, make_noise: Noise
) -> None:
    old = {path.name for path in (in_parts / "manifest").iterdir()}
    (in_parts / "manifest" / "notes.txt").write_text("not ours")
    folder = images({"new/0.png": make_noise(60, 60, seed=7)}) / "new"
    manifest = prepare(folder, in_parts, SMALL)
    left = {path.name for path in (in_parts / "manifest").iterdir()}
    assert left == {Path(part.key).name for part in manifest.parts} | {"notes.txt"}
    assert not left & old
