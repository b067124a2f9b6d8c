"""Whole runs on real S3, MLflow and Ray."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest
import tifffile
import torch
from tests.batch.actors import kill_actors
from tests.batch.pictures import encoded, pixels

from rayscale import batch, registry, storage
from rayscale.batch import Progress, Row, upscale_bucket
from rayscale.batch.plan import Task
from rayscale.batch.worker import Worker
from rayscale.errors import ConfigError, NotFoundError
from rayscale.export import export_model
from rayscale.imaging import Provenance
from rayscale.inference import Upscaler
from rayscale.local import Addresses
from rayscale.models.systems import create_model
from rayscale.models.weights import save_model
from rayscale.options import Options
from rayscale.registry import open_model

ODD_KEYS = [
    "plain.png",
    "with space + % 20%2F#?&=.png",
    "ünï/日本語 🙂.png",
    "deep/" + "x" * 180 + "/" + "y" * 180 + "/" + "z" * 150 + ".png",
    "no suffix",
]


@pytest.fixture(scope="module")
def model(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny network in the registry."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "w.safetensors"
    save_model(create_model("edsr-baseline", scale=2, filters=8, blocks=1), path)
    return registry.publish(path, "batch-tiny", alias="production").name


def test_a_bucket_of_everything(model: str, s3: Any) -> None:
    source, target = storage.connect(f"{s3.uri}/in"), storage.connect(f"{s3.uri}/out")
    for i, key in enumerate(ODD_KEYS):
        source.write(key, encoded(pixels(i)))
    source.write("photo.jpg", encoded(pixels(7), "jpeg"))
    source.write("deep16.tif", encoded(pixels(8, dtype=np.uint16), "tiff"))
    good = {*ODD_KEYS, "photo.jpg", "deep16.tif"}
    bad = {
        "broken.png": (encoded(pixels(9))[:200], "bad_image"),
        "empty.png": (b"", "bad_image"),
        "text.txt": (b"hello", "unsupported_media"),
        "text.jpg": (b"hello", "unsupported_media"),
        "grey.png": (encoded(pixels(10, shape=(8, 8))), "bad_image"),  # the model has 3 channels
    }
    for key, (data, _) in bad.items():
        source.write(key, data)

    seen: list[Progress] = []
    first = upscale_bucket(
        source.uri,
        target.uri,
        model=f"{model}@production",
        progress=seen.append,
        options=Options(precision="float32"),
    )
    assert (first.done, first.skipped, first.total) == (len(good), 0, len(good) + len(bad))
    assert {row.key: row.error for row in first.failed} == {k: code for k, (_, code) in bad.items()}
    assert all(row.message for row in first.failed)
    assert first.exit_code == 3
    assert (seen[0].finished, seen[-1].finished) == (0, first.total)

    outputs = {entry.key: entry.etag for entry in target.list() if not entry.key.startswith("_")}
    assert set(outputs) == good
    alone = Upscaler(registry.load(model), Options(scale=2, precision="float32"), device="cpu")
    for i, key in enumerate(ODD_KEYS):  # against one process without files
        expected = alone.upscale_pixels(pixels(i)).astype(np.float32)
        result = np.asarray(PIL.Image.open(io.BytesIO(target.read(key))), np.float32)
        assert np.abs(result - expected).max() <= 1  # rounding at a half may go either way
    jpeg = PIL.Image.open(io.BytesIO(target.read("photo.jpg")))
    assert (jpeg.format, jpeg.size) == ("JPEG", (20, 24))
    deep = tifffile.imread(io.BytesIO(target.read("deep16.tif")))
    assert (deep.dtype, deep.shape) == (np.uint16, (24, 20, 3))

    # Nothing is left but the failures, and those can be left alone: then not even Ray is asked.
    again = upscale_bucket(
        source.uri,
        target.uri,
        model=model,
        retry_failed=False,
        options=Options(precision="float32"),
    )
    assert (again.done, again.skipped, len(again.failed)) == (0, len(good), len(bad))
    assert again.seconds < 10

    # A new source, a lost output and a repaired failure are done, nothing else is touched.
    source.write("plain.png", encoded(pixels(20)))
    target.delete("no suffix")
    for key in bad:
        source.delete(key)
    source.write("broken.png", encoded(pixels(9)))
    last = upscale_bucket(
        source.uri, target.uri, model=f"{model}/1", options=Options(precision="float32")
    )
    assert (last.done, last.skipped, last.failed, last.exit_code) == (3, len(good) - 2, [], 0)
    now = {entry.key: entry.etag for entry in target.list() if not entry.key.startswith("_")}
    assert {key for key in now if outputs.get(key) != now[key]} == {"plain.png", "broken.png"}


def test_an_exported_file_goes_to_the_workers(stack: Addresses, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    file = tmp_path / "edsr.onnx"
    export_model(open_model("edsr-baseline-x2"), "onnx", file)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded(pixels(1)))
    summary = upscale_bucket(
        tmp_path / "in", tmp_path / "out", model="edsr-baseline", weights=file,
        options=Options(scale=2, precision="float32"),
    )  # fmt: skip
    assert (summary.done, summary.digest) == (1, hashlib.sha256(file.read_bytes()).hexdigest())
    options = Options(scale=2, precision="float32")
    want = Upscaler(open_model("edsr-baseline-x2").network, options).upscale_pixels(pixels(1))
    found = np.asarray(PIL.Image.open(tmp_path / "out" / "a.png"))
    assert np.abs(found.astype(int) - want.astype(int)).max() <= 1


def test_a_block_is_told_of_before_the_next_is_done(stack: Addresses, tmp_path: Path) -> None:
    """Else manifest and progress would always be one block behind what is there."""
    (tmp_path / "in").mkdir()
    for i in range(8):
        (tmp_path / "in" / f"{i}.png").write_bytes(encoded(pixels(i, shape=(160, 160, 3))))
    seen: list[tuple[int, int]] = []

    def look(progress: Progress) -> None:
        seen.append((progress.finished, len(list((tmp_path / "out").glob("*.png")))))

    upscale_bucket(str(tmp_path / "in"), str(tmp_path / "out"), model="edsr-baseline", device="cpu", actors=1, progress=look, options=Options(scale=2))  # fmt: skip
    between = [(finished, there) for finished, there in seen if 0 < finished < 8]
    block = between[0][0]
    assert len(between) >= 3
    assert any(there < finished + block for finished, there in between), seen


def test_a_part_of_a_bucket_into_itself(stack: Addresses, s3: Any) -> None:
    bucket = storage.connect(s3.uri)
    for key in ("2024/a.png", "2024/x/b.png", "2024/x/c.png", "2025/d.png"):
        bucket.write(key, encoded(pixels(1)))
    bucket.write("out/2024/x/b.png", b"somebody's")
    options: dict[str, Any] = {"model": "bicubic", "options": Options(scale=2)}
    first = upscale_bucket(f"{s3.uri}/2024/**/*.png", f"{s3.uri}/out/2024", **options)
    assert (first.done, [(row.key, row.error) for row in first.failed]) == (
        2,
        [("x/b.png", "exists")],
    )
    assert bucket.read("out/2024/x/b.png") == b"somebody's"

    # The whole bucket: neither the target nor that of the run before is an input.
    whole = upscale_bucket(s3.uri, f"{s3.uri}/out/all", **options)
    assert (whole.total, whole.done) == (4, 4)
    bucket.write("keys.jsonl", bucket.read("out/2024/_rayscale/failures.jsonl"))
    again = upscale_bucket(
        f"{s3.uri}/2024",
        f"{s3.uri}/out/2024",
        keys=f"{s3.uri}/keys.jsonl",
        overwrite=True,
        **options,
    )
    assert (again.done, again.total, again.exit_code) == (1, 1, 0)

    place = bucket.child("out/2024")
    rows = pyarrow.parquet.read_table(
        io.BytesIO(place.read("_rayscale/manifest.parquet"))
    ).to_pylist()
    assert [row["key"] for row in rows] == ["a.png", "x/b.png", "x/c.png"]
    for row in rows:
        data = place.read(row["output_key"])
        assert hashlib.sha256(data).hexdigest() == row["output_sha256"]
        assert place.stat(row["key"]).etag == row["output_etag"]
        assert (row["status"], row["megapixels"]) == ("done", 120e-6)
    assert place.read("_rayscale/failures.jsonl") == b""


class Interrupted:
    """A pool that does one input, then Ctrl-C."""

    def __init__(self, source: Any, target: Any, network: Any, method: Any, **_: Any) -> None:
        self.worker = Worker(source, target, method.pipeline(network, "cpu"), method)

    def run(self, todo: list[Task]) -> Iterator[list[Row]]:
        yield self.worker.process(todo[:1])
        raise KeyboardInterrupt


def test_an_interrupted_run_leaves_a_true_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayscale.batch.run.Pool", Interrupted)
    source, target = storage.connect(tmp_path / "in"), storage.connect(tmp_path / "out")
    for key in ("a.png", "b.png", "text.txt"):
        source.write(key, b"hello" if key == "text.txt" else encoded(pixels(0)))
    (tmp_path / "keys").write_text("b.png\nnone.png\ntext.txt\na.png")
    for arguments, done, failed in (
        ({"keys": tmp_path / "keys"}, ["a.png"], ["none.png"]),
        ({}, ["a.png", "b.png"], []),  # a whole source knows that none.png is none
        ({}, ["a.png", "b.png"], ["text.txt"]),
    ):
        with pytest.raises(KeyboardInterrupt):
            upscale_bucket(
                source.uri, target.uri, model="bicubic", **arguments, options=Options(scale=2)
            )
        lines = [json.loads(line) for line in target.read("_rayscale/manifest.jsonl").splitlines()]
        assert [line["key"] for line in lines if line["status"] == "done"] == done
        assert [line["key"] for line in lines if line["status"] == "failed"] == failed
    source.delete("text.txt")
    target.delete("b.png")
    summary = upscale_bucket(
        source.uri,
        target.uri,
        model="bicubic",
        limit=1,
        keys=_list(tmp_path),
        options=Options(scale=2),
    )
    assert (summary.skipped, summary.total) == (1, 1)
    assert b"b.png" not in target.read("_rayscale/manifest.jsonl")  # it is gone


def _list(folder: Path) -> Path:
    (folder / "one.txt").write_text("a.png")
    return folder / "one.txt"


def test_a_scene_is_shared_by_all_workers(
    stack: Addresses, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed worker included: its windows are computed again, those of others are not."""
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    from rayscale.inference import upscale_scene

    scene, side = tmp_path / "scene.tif", 2100
    with rasterio.open(
        scene, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint16",
        crs="EPSG:32632", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), tiled=True,
    ) as dataset:  # fmt: skip
        dataset.write(np.moveaxis(pixels(1, shape=(side, side, 3), dtype=np.uint16), 2, 0))
    monkeypatch.setenv("RAYSCALE_SCENE_PIXELS", "1000000")
    source, target = storage.connect(f"{s3.uri}/in"), storage.connect(f"{s3.uri}/out")
    source.write_file("2024/scene.tif", scene)
    source.write("small.png", encoded(pixels(2)))
    killed: list[int] = []

    seen: list[Progress] = []

    def kill(now: Progress) -> None:
        seen.append(now)
        if now.finished and not killed:
            killed.extend(kill_actors("SceneActor"))

    summary = upscale_bucket(
        source.uri, target.uri, model="bicubic", progress=kill, options=Options(scale=2)
    )
    assert (summary.done, summary.failed) == (2, [])
    windows = [now for now in seen if now.windows]
    assert windows[-1].windows == windows[-1].windows_todo > 1
    assert 0 < windows[0].megapixels < windows[-1].megapixels <= side**2 / 1e6 + 1
    assert windows[-1].bytes == windows[-1].bytes_todo
    upscaler = Upscaler(create_model("bicubic"), Options(scale=2), device="cpu")
    provenance = Provenance("bicubic", "built-in:bicubic", upscaler.describe())
    upscale_scene(upscaler, scene, tmp_path / "alone.tif", provenance)
    assert target.read("2024/scene.tif") == (tmp_path / "alone.tif").read_bytes()
    assert not list(target.list("_rayscale/scenes/"))
    target.write(
        "_rayscale/scenes/old/000000.npz", b"left by a driver that died after its last row"
    )
    again = upscale_bucket(source.uri, target.uri, model="bicubic", options=Options(scale=2))
    assert (again.done, again.skipped) == (0, 2)
    assert not list(target.list("_rayscale/scenes/"))


def test_a_bad_model_or_scale_is_one_error(model: str, tmp_path: Path) -> None:
    storage.connect(tmp_path / "in").write("a.png", encoded(pixels(0)))
    places = (tmp_path / "in", tmp_path / "out")
    with pytest.raises(
        NotFoundError, match="no model 'batch-tinny' in the registry; it has batch-tiny"
    ):
        upscale_bucket(*places, model="batch-tinny")
    with pytest.raises(ConfigError, match="serves the scale 2, not 3"):
        upscale_bucket(*places, model=model, options=Options(scale=3))
    with pytest.raises(ConfigError, match="not a model reference"):
        upscale_bucket(*places, model="s3://elsewhere/model")
    with pytest.raises(ConfigError, match="actors must be at least 1"):
        upscale_bucket(*places, model=model, actors=0)
    assert not (tmp_path / "out").exists()


def test_importing_the_room_is_cheap() -> None:

    code = "import sys, rayscale.batch, rayscale.registry; print({'ray', 'torch', 'mlflow', 'boto3'} & set(sys.modules))"
    place = Path(batch.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(place)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_a_run_about_a_list_leaves_the_scenes_of_others(tmp_path: Path) -> None:
    target = storage.connect(tmp_path / "out")
    storage.connect(tmp_path / "in").write("a.tif", b"")
    (tmp_path / "keys.txt").write_text("gone.tif")
    for key in ("a.tif", "gone.tif"):
        target.write(f"_rayscale/scenes/{key}/scene.json", json.dumps(key).encode())
    upscale_bucket(
        tmp_path / "in",
        target.uri,
        model="bicubic",
        keys=tmp_path / "keys.txt",
        options=Options(scale=2),
    )
    left = [entry.key for entry in target.list("_rayscale/scenes/")]
    assert left == ["_rayscale/scenes/a.tif/scene.json"]
