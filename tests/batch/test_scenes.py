"""A scene as parts: computed anywhere, assembled into the file that one process would have written."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rayscale.batch import actors
from rayscale.batch.inputs import ChangedError
from rayscale.batch.manifest import Row
from rayscale.batch.outputs import ExistsError
from rayscale.batch.plan import Method, Task
from rayscale.batch.scenes import FOLDER, SceneWork, sweep
from rayscale.batch.worker import SharedScene, Worker, parse_outcome
from rayscale.errors import StorageError
from rayscale.imaging import Provenance
from rayscale.imaging.scene import Scene
from rayscale.inference import Upscaler, scenes, upscale_scene, windows_of
from rayscale.inference.pipeline import Pipeline
from rayscale.models.systems import create_model
from rayscale.options import Options
from rayscale.settings import get_settings
from rayscale.storage import Store, connect

rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")

METHOD = Method("bicubic", "built-in:bicubic", Options(scale=2))


def geotiff(path: Path, side: int = 300) -> Path:
    """Noise of 16 bit in which some pixels are missing, on the ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1).integers(1, 60000, (2, side, side + 20), np.uint16)
    noise[:, 40:90, 50:60] = 0
    with rasterio.open(
        path, "w", driver="GTiff", width=side + 20, height=side, count=2, dtype="uint16", nodata=0,
        crs="EPSG:32632", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), compress="deflate",
    ) as dataset:  # fmt: skip
        dataset.write(noise)
    return path


@pytest.fixture
def pipeline() -> Pipeline:
    return METHOD.pipeline(create_model("bicubic"), "cpu")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Store]:
    monkeypatch.setattr(get_settings(), "cache_dir", tmp_path / "cache")
    # Windows of 64 pixels, so that a small scene has many.
    monkeypatch.setattr("rayscale.inference.frames.WINDOW_BYTES", 4 * 2 * 4 * 64**2)
    geotiff(tmp_path / "in" / "a" / "scene.tif")
    return connect(tmp_path / "in"), connect(tmp_path / "out")


def task(source: Store) -> Task:
    return Task(next(iter(source.list())))


def compute(work: SceneWork, upscaler: Upscaler, numbers: list[int]) -> None:
    with Scene(work.path) as scene:
        windows = windows_of(scene, upscaler)
        for number in numbers:
            work.compute(scene, upscaler, number, windows[number])


def count(work: SceneWork, upscaler: Upscaler) -> int:
    with Scene(work.path) as scene:
        return len(windows_of(scene, upscaler))


def test_parts_from_several_workers_make_the_file_of_one(
    places: tuple[Store, Store], pipeline: Pipeline, tmp_path: Path
) -> None:
    source, target = places
    one, other = (SceneWork(source, target, METHOD, task(source)) for _ in range(2))
    windows = count(one, pipeline.upscaler)
    assert windows > 8
    compute(one, pipeline.upscaler, list(range(0, windows, 2))[::-1])
    assert other.missing(windows) == list(range(1, windows, 2))
    compute(other, pipeline.upscaler, other.missing(windows))
    placed = one.assemble(pipeline, overwrite=False)

    alone = tmp_path / "alone.tif"
    provenance = Provenance(METHOD.model, METHOD.digest, pipeline.upscaler.describe())
    upscale_scene(pipeline.upscaler, tmp_path / "in" / "a" / "scene.tif", alone, provenance)
    written = target.read("a/scene.tif")
    assert written == alone.read_bytes()
    assert placed.sha256 == hashlib.sha256(written).hexdigest()
    assert [entry.key for entry in target.list()] == ["a/scene.tif"]  # no part is left
    assert not list((tmp_path / "cache").rglob("*.tif"))


def test_an_output_whose_row_was_lost_is_found(
    places: tuple[Store, Store], pipeline: Pipeline, s3: Any
) -> None:
    """By its mark, which S3 keeps."""
    source, _ = places
    target = connect(f"{s3.uri}/out")
    work = SceneWork(source, target, METHOD, task(source))
    compute(work, pipeline.upscaler, work.missing(count(work, pipeline.upscaler)))
    placed = work.assemble(pipeline, overwrite=False)
    again = SceneWork(source, target, METHOD, Task(task(source).entry, found=placed.etag))
    assert again.assemble(pipeline, overwrite=False) == placed
    assert [entry.key for entry in target.list()] == ["a/scene.tif"]


def test_what_killed_workers_left_is_deleted(
    places: tuple[Store, Store], pipeline: Pipeline, tmp_path: Path, s3: Any
) -> None:
    """Half a source, half an output, half an upload; what another one still works on stays."""
    import boto3

    source, _ = places
    target = connect(f"{s3.uri}/out")
    work = SceneWork(source, target, METHOD, task(source))
    cache = tmp_path / "cache" / "scenes"
    for name in (f"{work.id}.in", f"{work.id}.out", "another.out", "living.out"):
        (cache / name / ".rayscale-x.part").mkdir(parents=True)
        (cache / name / "half.tif").write_bytes(b"half")
    client = boto3.session.Session().client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    bucket, _, prefix = f"{s3.uri}/out/".removeprefix("s3://").partition("/")
    for key in ("a/scene.tif", "a/scene.tif.other"):
        client.create_multipart_upload(Bucket=bucket, Key=prefix + key)
    living = os.open(cache / "living.out", os.O_RDONLY)
    fcntl.flock(living, fcntl.LOCK_EX)
    compute(work, pipeline.upscaler, work.missing(count(work, pipeline.upscaler)))
    work.assemble(pipeline, overwrite=False)
    os.close(living)
    assert sorted(cache.rglob("*.tif")) == [cache / "living.out" / "half.tif"]
    assert [path.name for path in cache.iterdir()] == ["living.out"]
    uploads = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)["Uploads"]
    assert [upload["Key"] for upload in uploads] == [prefix + "a/scene.tif.other"]


def test_workers_of_one_machine_fetch_a_source_once(
    places: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = places
    fetched, fetch = [], type(source).fetch

    def slow(self: Store, key: str, path: str | Path) -> str:
        fetched.append(key)
        time.sleep(0.2)
        return fetch(self, key, path)

    monkeypatch.setattr(type(source), "fetch", slow)
    works = [SceneWork(source, target, METHOD, task(source)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        (path,) = set(pool.map(lambda work: work.path, works))
    assert path.read_bytes() == source.read("a/scene.tif")
    assert fetched == ["a/scene.tif"]
    assert list(path.parent.iterdir()) == [path]


def test_a_foreign_object_stays(places: tuple[Store, Store], pipeline: Pipeline) -> None:
    source, target = places
    target.write("a/scene.tif", b"somebody else's")
    work = SceneWork(source, target, METHOD, Task(task(source).entry, found="x"))
    compute(work, pipeline.upscaler, work.missing(count(work, pipeline.upscaler)))
    with pytest.raises(ExistsError, match="overwrite=true"):
        work.assemble(pipeline, overwrite=False)
    assert target.read("a/scene.tif") == b"somebody else's"
    work.assemble(pipeline, overwrite=True)
    assert target.read("a/scene.tif")[:2] == b"II"


def test_a_sparse_scene_is_one_however_small_its_file(
    places: tuple[Store, Store], pipeline: Pipeline, tmp_path: Path
) -> None:
    path = tmp_path / "in" / "a" / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=10_000, height=10_000, count=1, dtype="uint8",
        crs="EPSG:32632", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), tiled=True,
        blockxsize=512, blockysize=512, sparse_ok=True, compress="deflate",
    ):  # fmt: skip
        pass
    assert path.stat().st_size < 30_000
    source, target = places
    with Worker(source, target, pipeline, METHOD) as worker:
        (shared,) = worker.process([task(source)])
    assert isinstance(shared, SharedScene)
    assert shared.megapixels == 100
    assert shared.windows > 1
    assert parse_outcome(shared.to_json()) == shared


def test_a_damaged_part_is_computed_anew(places: tuple[Store, Store], pipeline: Pipeline) -> None:
    source, target = places
    work = SceneWork(source, target, METHOD, task(source))
    windows = count(work, pipeline.upscaler)
    compute(work, pipeline.upscaler, list(range(windows)))
    key = next(iter(work.parts.list())).key
    work.parts.write(key, work.parts.read(key)[:1000])
    with pytest.raises(StorageError, match="was damaged"):
        work.assemble(pipeline, overwrite=False)
    assert work.missing(windows) == [0]
    compute(work, pipeline.upscaler, [0])
    work.assemble(pipeline, overwrite=False)
    assert target.exists("a/scene.tif")


def test_a_changed_source_is_told_and_its_parts_are_swept(
    places: tuple[Store, Store], pipeline: Pipeline, tmp_path: Path
) -> None:
    source, target = places
    old = SceneWork(source, target, METHOD, task(source))
    compute(old, pipeline.upscaler, [0])
    geotiff(tmp_path / "in" / "a" / "scene.tif", side=310)
    late = SceneWork(source, target, METHOD, old.task)
    late.forget()
    with pytest.raises(ChangedError):
        late.path  # noqa: B018
    new = SceneWork(source, target, METHOD, task(source))
    assert new.id != old.id
    compute(new, pipeline.upscaler, [0])
    sweep(target, {new.id}, lambda _: True)
    assert [entry.key for entry in target.list()] == [f"{FOLDER}{new.id}/000000.npz"]


def test_parts_of_inputs_that_a_run_is_not_about_stay(
    places: tuple[Store, Store], pipeline: Pipeline
) -> None:
    source, target = places
    work = SceneWork(source, target, METHOD, task(source))
    work.label()
    compute(work, pipeline.upscaler, [0])
    sweep(target, set(), lambda key: key == "other.tif")
    assert len(list(work.parts.list())) == 2
    sweep(target, set(), lambda key: key == "a/scene.tif")
    assert not list(target.list())


@pytest.mark.slow
def test_the_row_of_a_scene_has_the_seconds_of_its_windows(
    places: tuple[Store, Store], pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = places
    work = SceneWork(source, target, METHOD, task(source))
    upscale = scenes.upscale_window

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return upscale(*arguments)

    monkeypatch.setattr("rayscale.inference.upscale_window", slow)
    monkeypatch.setattr(actors, "prepare", lambda *_, **__: pipeline)
    windows = count(work, pipeline.upscaler)
    compute(work, pipeline.upscaler, list(range(windows)))
    row = Row.from_json(actors.assemble(source, target, None, METHOD, False, work.task))
    assert not row.error
    assert row.seconds > 0.1 * windows


@pytest.mark.parametrize("alone", [True, False], ids=["in one worker", "over all workers"])
def test_the_row_says_what_the_reader_notes(
    places: tuple[Store, Store],
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alone: bool,
) -> None:
    source, target = places
    infrared = np.random.default_rng(1).integers(1, 255, (4, 90, 90), np.uint8)
    with rasterio.open(
        tmp_path / "in/a/scene.tif", "w", driver="GTiff", width=90, height=90, count=4, dtype="uint8",
        crs="EPSG:32611", photometric="rgb", alpha="yes",
    ) as dataset:  # fmt: skip
        dataset.write(infrared)
    if alone:
        with Worker(source, target, pipeline, METHOD) as worker:
            (row,) = worker.process([task(source)])
    else:
        monkeypatch.setattr(actors, "prepare", lambda *_, **__: pipeline)
        work = SceneWork(source, target, METHOD, task(source))
        compute(work, pipeline.upscaler, list(range(count(work, pipeline.upscaler))))
        row = Row.from_json(actors.assemble(source, target, None, METHOD, False, work.task))
    assert not row.error
    assert [text[:6] for text in row.notes] == ["band 4"]


def test_a_worker_keeps_the_copy_of_one_scene_while_others_wait(
    places: tuple[Store, Store], pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of a whole night of scenes would fill a disk that suffices for each."""
    source, target = places
    for number in range(3):
        geotiff(tmp_path / "in" / f"{number}.tif")
    monkeypatch.setattr(get_settings(), "scene_pixels", 300 * 320)
    with Worker(source, target, pipeline, METHOD) as worker:
        found = worker.process([Task(entry) for entry in source.list()])
    assert [type(each) for each in found] == [SharedScene] * 4
    assert len(list((tmp_path / "cache/scenes").glob("*.tif"))) <= 1
    assert not list((tmp_path / "cache/scenes").glob("*.in"))


def test_a_disk_that_is_too_small_is_named(
    places: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = places
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=r"which has 1000 left; .* RAYSCALE_CACHE_DIR"):
        _ = SceneWork(source, target, METHOD, task(source)).path


def test_after_a_failure_the_worker_asks_for_no_more(
    places: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = places
    todo = task(source)
    actor = actors.SceneActor.__new__(actors.SceneActor)
    actor._upscaler, actor._scene, actor._failure = None, None, None  # type: ignore[assignment]
    actor._work = SceneWork(source, target, METHOD, todo)
    (tmp_path / "in" / "a" / "scene.tif").write_bytes(b"another")
    first = actor._compute(0)
    assert first[0] == "changed"
    monkeypatch.setattr(type(source), "fetch", lambda *_: pytest.fail("it was fetched again"))
    assert actor._compute(1) == first
    assert not list((tmp_path / "cache/scenes").glob("*.tif"))
