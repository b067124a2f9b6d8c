"""The local cache against the real S3 server; and the same dataset read from a folder and a bucket."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayscale.data import Dataset, Manifest, PatchStream, PrepareConfig, ShardCache, prepare
from rayscale.data.manifest import Column
from rayscale.data.multiscale import ScaleStream
from rayscale.errors import ConfigError, StorageError
from rayscale.storage import connect

CONFIG = PrepareConfig(scales=(2, 4), size=48, step=48, minimum=24, images_per_shard=1)


@pytest.fixture
def folder(images: Callable[..., Path], make_noise: Callable[..., np.ndarray]) -> Path:
    return images({f"ä {n}.png": make_noise(96, 48, seed=n) for n in range(6)})


@pytest.fixture
def uri(folder: Path, s3: Any) -> str:
    """The dataset in a bucket, made from images in a bucket."""
    source = connect(f"{s3.uri}/in")
    for path in folder.iterdir():
        source.write_file(path.name, path)
    prepare(source.uri, f"{s3.uri}/set", CONFIG)
    return f"{s3.uri}/set"


def test_a_bucket_and_a_folder_hold_the_same(folder: Path, uri: str, tmp_path: Path) -> None:
    local = prepare(folder, tmp_path / "set", CONFIG)
    stored = Manifest.load(f"{uri}/manifest.json")
    assert stored.digest == local.digest
    cache = ShardCache(tmp_path / "cache")
    streams = [
        PatchStream(dataset, patch=12, batch=4)
        for dataset in (Dataset(tmp_path / "set", 4), Dataset(uri, 4, cache))
    ]
    for step in range(6):
        for one, other in zip(*(stream.batch(step) for stream in streams), strict=True):
            assert torch.equal(one, other)
    names = {path.stem for path in (tmp_path / "cache" / "shards").glob("*.arrow")}
    columns = [shard.columns for shard in stored.shards]
    assert names == {column[scale].sha256 for column in columns for scale in ("1", "4")}
    assert cache.size() == sum(c[scale].bytes for c in columns for scale in ("1", "4"))


def test_the_bound_holds_and_the_least_recent_goes(uri: str, tmp_path: Path) -> None:
    manifest, store = Manifest.load(uri), connect(uri)
    columns = [shard.columns["1"] for shard in manifest.shards]
    size = max(column.bytes for column in columns)
    cache = ShardCache(tmp_path, limit=3 * size)
    for age, column in enumerate(columns[:3]):
        os.utime(cache.get(store, column), (age, age))
    cache.get(store, columns[0])  # now the most recent
    for column in columns[3:5]:
        cache.get(store, column)
        assert cache.size() <= 3 * size
    names = {path.stem for path in cache.folder.glob("*.arrow")}
    assert names == {columns[index].sha256 for index in (0, 3, 4)}
    with pytest.raises(ConfigError, match="RAYSCALE_CACHE_BYTES"):
        ShardCache(tmp_path / "tiny", limit=100).get(store, columns[0])


def test_training_goes_on_with_a_cache_below_the_share(
    uri: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(folder, tmp_path / "set", CONFIG)
    local = Dataset(tmp_path / "set", 2)
    size = max(column.bytes for shard in local.manifest.shards for column in shard.columns.values())
    cache = ShardCache(tmp_path, limit=3 * size)
    stream = ScaleStream(uri, (2,), patch=12, batch=2, seed=0, cache=cache)
    assert "RAYSCALE_CACHE_BYTES" in caplog.text
    whole = PatchStream(local, patch=12, batch=2)
    for step in range(12):
        assert torch.equal(stream.batches(step)[0].hr, whole.batch(step)[1])
        assert cache.size() <= 3 * size


def test_a_damaged_copy_is_fetched_again(uri: str, tmp_path: Path) -> None:
    store = connect(uri)
    column = Manifest.load(uri).shards[0].columns["1"]
    cache = ShardCache(tmp_path)
    path = cache.get(store, column)
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:500] + b"\0\1\2\3" + whole[504:], b""):
        path.write_bytes(damaged)
        assert cache.get(store, column).read_bytes() == whole


def test_a_damaged_object_is_an_error(uri: str, tmp_path: Path) -> None:
    store = connect(uri)
    column = Manifest.load(uri).shards[0].columns["2"]
    content = bytearray(store.read(column.key))
    content[700] ^= 1
    store.write(column.key, bytes(content))
    cache = ShardCache(tmp_path)
    with pytest.raises(StorageError, match="sha256 of its manifest"):
        Dataset(uri, 2, cache).pair(0)
    assert column.sha256 not in {path.stem for path in cache.folder.glob("*.arrow")}


def test_a_damaged_local_dataset_is_an_error(folder: Path, tmp_path: Path) -> None:
    manifest = prepare(folder, tmp_path / "set", CONFIG)
    path = tmp_path / "set" / manifest.shards[0].columns["1"].key
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StorageError, match="changed or damaged"):
        Dataset(tmp_path / "set", 2).pair(0)


def test_many_threads_share_one_cache(uri: str, tmp_path: Path) -> None:
    store = connect(uri)
    columns: list[Column] = [shard.columns["1"] for shard in Manifest.load(uri).shards] * 4
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda column: ShardCache(tmp_path).get(store, column), columns))
    assert {path.stem for path in paths} == {column.sha256 for column in columns}
    assert {path.suffix for path in (tmp_path / "shards").iterdir() if path.is_file()} <= {
        ".arrow",
        "",
    }


def test_what_killed_downloads_left_is_cleaned(uri: str, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path)
    (cache.folder / "incoming").mkdir(parents=True)
    left = [cache.folder / "incoming" / "a.arrow", cache.folder / "b.reserved"]
    for path in left:
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    cache.get(connect(uri), Manifest.load(uri).shards[0].columns["1"])
    assert not any(path.exists() for path in left)
