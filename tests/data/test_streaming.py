"""Reading from storage: any number of workers, shards fetched ahead and once per node, rows by range, damage."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.rows import SMALL

from rayscale.data import Dataset, PatchStream, PrepareConfig, ScaleStream, ShardCache, prepare
from rayscale.data import dataset as dataset_module
from rayscale.data.cache import DamagedShardError
from rayscale.data.manifest import Column
from rayscale.data.ranged import RangedColumn
from rayscale.data.sampler import row_at, share
from rayscale.data.shards import open_shard
from rayscale.errors import ConfigError, StorageError
from rayscale.storage import Entry, Store
from rayscale.storage.local import LocalStore

Noise = Callable[..., np.ndarray]
WORLDS = (1, 2, 3, 5, 8)


class Remote(Store):
    """A folder as a store that is not on this machine; counts what is fetched, and may damage it."""

    def __init__(self, folder: Path) -> None:
        self._files = LocalStore(folder)
        self.uri = f"far://{folder}"
        self.fetched: Counter[str] = Counter()
        self.ranges: Counter[str] = Counter()
        self.damaged: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def list(self, prefix: str = "", *, folders: bool = False) -> Iterator[Entry]:
        return self._files.list(prefix, folders=folders)

    def stat(self, key: str) -> Entry:
        return self._files.stat(key)

    def read_version(self, key: str) -> tuple[bytes, str]:
        return self._files.read_version(key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self.ranges[key] += 1
        return self._files.read_range(key, start, length)

    def fetch(self, key: str, path: str | Path) -> str:
        self.gate.wait()
        self.fetched[key] += 1
        version = self._files.fetch(key, path)
        if key in self.damaged:
            Path(path).write_bytes(b"damaged" + Path(path).read_bytes()[7:])
        return version

    def _write(self, *values: Any, **options: Any) -> str:
        raise AssertionError("nothing is written")

    write = write_file = delete = child = locate = _write  # type: ignore[assignment]


def remote(folder: Path) -> Remote:
    store = Remote(folder)
    store.locate = lambda key: f"far/{key}"  # type: ignore[method-assign]
    return store


@pytest.fixture
def far(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    store = remote(prepared)
    monkeypatch.setattr(dataset_module, "dataset_store", lambda _: store)
    return store


def together(make: Callable[..., PatchStream], step: int, world: int) -> list[torch.Tensor]:
    parts = [make(rank=rank, world=world).batch(step) for rank in range(world)]
    return [torch.cat(halves) for halves in zip(*parts, strict=True)]


@settings(max_examples=12)
@given(seed=st.integers(0, 1000), step=st.integers(0, 10**6), batch=st.integers(8, 20))
def test_the_sequence_is_the_same_for_any_world(
    dataset: Dataset, seed: int, step: int, batch: int
) -> None:
    """Resumed at any step with another world, too: nothing but (seed, step) is needed."""

    def make(**part: int) -> PatchStream:
        return PatchStream(dataset, patch=8, batch=batch, seed=seed, **part)

    whole = make().batch(step)
    for world in WORLDS[1:]:
        assert all(map(torch.equal, whole, together(make, step, world)))
        sizes = [len(make(rank=rank, world=world).slots) for rank in range(world)]
        assert max(sizes) - min(sizes) <= 1


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """On this machine; opened once for many examples."""
    import PIL.Image

    folder = tmp_path_factory.mktemp("streaming")
    (folder / "in").mkdir()
    for number in range(5):
        random = np.random.default_rng(number)
        pixels = random.integers(0, 256, (60, 72 + 12 * number, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "in" / f"{number}.png")
    prepare(folder / "in", folder / "set", PrepareConfig(**SMALL.model_dump() | {"scales": (2,)}))
    return Dataset(folder / "set", 2)


def test_a_worker_without_a_patch_is_told(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="at least 9"):
        PatchStream(dataset, patch=8, batch=8, world=9)
    with pytest.raises(ConfigError, match="at least 6"):
        ScaleStream(dataset.uri, (2,), patch=8, batch=5, seed=0, world=6)


def test_shards_of_the_next_steps_are_fetched_ahead(far: Remote, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache")
    stream = PatchStream(Dataset("", 2, cache), patch=8, batch=4, seed=1)
    stream.batch(0)
    ahead = {
        place
        for step in range(1, 17)
        for row in stream.rows_at(step)
        for place in [stream.dataset.place(row)[0]]
    }
    assert ahead == set(range(len(stream.dataset.manifest.shards)))
    for future in list(stream.dataset._coming.values()):
        future.result()
    before = far.fetched.copy()
    for step in range(1, 17):
        stream.batch(step)
    assert far.fetched == before
    assert set(far.fetched.values()) == {1}
    stream.dataset.close()


def test_workers_of_a_node_fetch_a_shard_once(far: Remote, tmp_path: Path) -> None:
    column = Dataset("", 2, ShardCache(tmp_path)).manifest.shards[0].columns["1"]
    far.gate.clear()
    with ThreadPoolExecutor(6) as pool:
        paths = [pool.submit(ShardCache(tmp_path).get, far, column) for _ in range(6)]
        far.gate.set()
        assert len({path.result() for path in paths}) == 1
    assert far.fetched[column.key] == 1


@pytest.mark.parametrize(("bits", "channels"), [(8, 3), (16, 1), (16, 3)])
def test_a_row_by_range_is_the_row_of_the_file(
    images: Callable[..., Path], make_noise: Noise, make_file: Callable[..., bytes], tmp_path: Path,
    bits: int, channels: int,
) -> None:  # fmt: skip
    """Pictures of several sizes, several record batches; heads that are longer than the first read."""
    files = {f"{n}.tif": make_noise(60 + 12 * n, 72, channels, bits, n) for n in range(4)}
    if bits == 8:
        folder = images({name.replace("tif", "png"): pixels for name, pixels in files.items()})
    else:
        folder = images({name: make_file(pixels) for name, pixels in files.items()})
    config = SMALL.model_copy(update={"images_per_shard": 4})
    manifest = prepare(folder, tmp_path / "set", config)
    (shard,) = manifest.shards
    store = remote(tmp_path / "set")
    for scale in (1, 2, 3):
        sizes = [(h // scale, w // scale) for h, w, rows in shard.sizes for _ in range(rows)]
        column = shard.columns[str(scale)]
        rows = RangedColumn(store, column, channels=channels, bits=bits, sizes=sizes)
        views = open_shard(tmp_path / "set" / column.key)
        assert len(rows) == len(views)
        assert all(map(np.array_equal, rows[:], views))
        read = store.ranges[column.key]
        rows[0]
        assert store.ranges[column.key] == read + 1


def test_what_does_not_fit_into_the_cache_is_read_by_range(
    far: Remote, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = [
        c.bytes
        for shard in Dataset("", 2, ShardCache(tmp_path)).manifest.shards
        for c in shard.columns.values()
    ]
    whole = ScaleStream("", (2,), patch=8, batch=4, seed=0, cache=ShardCache(tmp_path / "large"))
    expected = [whole.batches(step)[0] for step in range(20)]
    for limit in (10, max(sizes), 3 * max(sizes)):
        cache = ShardCache(tmp_path / str(limit), limit=limit)
        stream = ScaleStream("", (2,), patch=8, batch=4, seed=0, cache=cache)
        assert "read from storage at every use" in caplog.text
        for step, batch in enumerate(expected):
            (found,) = stream.batches(step)
            assert torch.equal(found.lr, batch.lr)
            assert torch.equal(found.hr, batch.hr)
            assert cache.size() <= limit
        stream.close()
    assert set(far.fetched.values()) <= {1, 2, 3}  # never again and again


def test_where_the_disk_is_full_rows_are_read_by_range(
    far: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = ScaleStream("", (2,), patch=8, batch=4, seed=0, cache=ShardCache(tmp_path / "large"))
    expected = [whole.batches(step)[0] for step in range(20)]
    tried: Counter[str] = Counter()

    def fetch(key: str, path: str | Path) -> str:
        tried[key] += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(far, "fetch", fetch)
    cache = ShardCache(tmp_path / "full")
    stream = ScaleStream("", (2,), patch=8, batch=4, seed=0, cache=cache)
    for step, batch in enumerate(expected):
        (found,) = stream.batches(step)
        assert torch.equal(found.lr, batch.lr)
        assert torch.equal(found.hr, batch.hr)
    stream.close()
    assert set(tried.values()) == {1}
    assert f"{cache.folder}: No space left on device" in caplog.text
    assert "RAYSCALE_CACHE_DIR" in caplog.text
    monkeypatch.setattr(far, "fetch", lambda key, path: (_ for _ in ()).throw(OSError(5, "I/O")))
    with pytest.raises(OSError, match="I/O"):
        ScaleStream("", (2,), patch=8, batch=4, seed=0, cache=cache).batches(0)


def test_a_shard_that_arrives_is_never_counted_twice(
    far: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked while its file takes the place that was held for it: the size is that of before or after."""
    cache = ShardCache(tmp_path)
    column = Dataset("", 2, cache).manifest.shards[0].columns["2"]
    found: list[int] = []
    asking = threading.Thread(target=lambda: found.append(cache.size()))
    put = Path.replace

    def put_and_ask(path: Path, target: Path) -> Path:
        placed = put(path, target)
        if target.parent == cache.folder:
            asking.start()
            asking.join(0.1)  # an answer that comes now counts the file and its place
        return placed

    monkeypatch.setattr(Path, "replace", put_and_ask)
    cache.get(far, column)
    asking.join()
    assert found == [column.bytes]


def test_a_file_that_is_no_shard_is_an_error(tmp_path: Path) -> None:
    for content in (b"", b"x" * 4000, b"ARROW1" * 30):
        (tmp_path / "a.arrow").write_bytes(content)
        column = Column(key="a.arrow", bytes=len(content), sha256="0" * 64)
        with pytest.raises(StorageError, match="not a shard of this format"):
            RangedColumn(remote(tmp_path), column, channels=1, bits=8, sizes=[(4, 4)])


def test_a_damaged_shard_is_left_out_by_all_workers_alike(
    far: Remote, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fetched again, then replaced row by row by what only depends on the store: the same for any world and after a resume."""

    def make(**part: int) -> PatchStream:
        cache = ShardCache(tmp_path / f"{part}")
        return PatchStream(Dataset("", 2, cache), patch=8, batch=8, seed=2, **part)

    whole = make()
    healthy = [whole.rows_at(step) for step in range(40)]
    shards = whole.dataset.manifest.shards
    lost = shards[1]
    far.damaged = {lost.columns["1"].key}
    far.fetched.clear()
    damaged = make()
    batches = [damaged.batch(step) for step in range(40)]
    assert damaged.dataset.left_out == {lost.name: lost.rows}
    assert far.fetched[lost.columns["1"].key] == 2
    assert f"1 shards with {lost.rows} sub-images" in caplog.text
    for step, rows in enumerate(healthy):
        drawn = damaged.rows_at(step)
        for slot, (row, other) in enumerate(zip(rows, drawn, strict=True)):
            first, last = share(damaged.rows, 8, slot)
            assert damaged.dataset.place(other)[0] != 1
            if {damaged.dataset.place(n)[0] for n in range(first, last)} != {1}:
                assert first <= other < last  # of the slot's own share
            if damaged.dataset.place(row)[0] != 1:
                assert other == row
    for world in (2, 3, 5, 8):
        for step in (0, 13, 39):
            assert all(map(torch.equal, batches[step], together(make, step, world)))


def test_when_nothing_is_left_it_is_an_error(far: Remote, tmp_path: Path) -> None:
    dataset = Dataset("", 2, ShardCache(tmp_path))
    far.damaged = {
        column.key for shard in dataset.manifest.shards for column in shard.columns.values()
    }
    with pytest.raises(DamagedShardError):
        dataset.pair(0)
    with pytest.raises(StorageError, match="every shard of far"):
        PatchStream(Dataset("", 2, ShardCache(tmp_path)), patch=8, batch=4).batch(0)


def test_a_row_is_the_first_of_those_that_may_take_its_place() -> None:
    from rayscale.data.sampler import rows_from

    for step in range(50):
        candidates = list(rows_from(3, step, 2, rows=41, batch=8))
        assert candidates[0] == row_at(3, step, 2, rows=41, batch=8)
        own = list(range(*share(41, 8, 2)))
        assert sorted(candidates[: len(own)]) == own
        assert set(candidates) == set(range(41))
