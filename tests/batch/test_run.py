"""Whole runs on real S3, MLflow and Ray."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
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

from rayscale import batch, registry, storage
from rayscale.batch import Progress, Row, upscale_bucket
from rayscale.batch.plan import Task
from rayscale.batch.worker import Worker
from rayscale.errors import ConfigError, NotFoundError
from rayscale.imaging import Provenance
from rayscale.inference import Upscaler
from rayscale.local import Addresses
from rayscale.models.network import SuperResolver
from rayscale.models.systems import create_model
from rayscale.models.weights import save_model
from rayscale.options import Options

ODD_KEYS = [
    "plain.png",
    "with space + % 20%2F#?&=.png",
    "ünï/日本語 🙂.png",
    "deep/" + "x" * 180 + "/" + "y" * 180 + "/" + "z" * 150 + ".png",
    "no suffix",
]


def pixels(seed: int, *, shape: tuple[int, ...] = (12, 10, 3), dtype: Any = np.uint8) -> Any:
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype=dtype, endpoint=True)


def encoded(array: Any, kind: str = "png") -> bytes:
    file = io.BytesIO()
    if kind == "tiff":
        tifffile.imwrite(file, array, photometric="rgb")
    else:
        PIL.Image.fromarray(array).save(file, kind)
    return file.getvalue()


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


@pytest.mark.slow
def test_a_block_is_told_of_before_the_next_is_done(tmp_path: Path) -> None:
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

    def __init__(self, source: Any, target: Any, network: Any, recipe: Any, **_: Any) -> None:
        self.worker = Worker(source, target, recipe.pipeline(network, "cpu"), recipe)

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


def test_a_killed_worker_costs_nothing(stack: Addresses, tmp_path: Path) -> None:
    from ray.util.state import list_actors

    for i in range(24):
        storage.connect(tmp_path / "in").write(f"{i}.png", encoded(pixels(i, shape=(200, 200, 3))))
    killed: list[int] = []

    def kill(now: Progress) -> None:
        if now.finished and not killed:
            for actor in list_actors(filters=[("state", "=", "ALIVE")]):
                if "UpscaleActor" in actor.class_name:
                    killed.append(actor.pid)
                    os.kill(actor.pid, signal.SIGKILL)

    summary = upscale_bucket(
        tmp_path / "in",
        tmp_path / "out",
        model="bicubic",
        actors=1,
        progress=kill,
        options=Options(scale=2),
    )
    assert killed
    assert (summary.done, summary.failed) == (24, [])
    assert len(list((tmp_path / "out").glob("*.png"))) == 24


def test_a_scene_is_shared_by_all_workers(
    stack: Addresses, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed worker included: its windows are computed again, those of others are not."""
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    from ray.util.state import list_actors

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
            for actor in list_actors(filters=[("state", "=", "ALIVE")]):
                if "SceneActor" in actor.class_name:
                    killed.append(actor.pid)
                    os.kill(actor.pid, signal.SIGKILL)

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


class Deadly(torch.nn.Module):
    """Takes its process along at the sight of an image 13 pixels wide."""

    def __init__(self, inner: SuperResolver) -> None:
        super().__init__()
        self.inner, self.spec = inner, inner.spec
        self.scales, self.channels, self.halo = inner.scales, inner.channels, inner.halo
        self.resolve_scale, self.path = inner.resolve_scale, inner.path
        self.keeps_means, self.linear = inner.keeps_means, inner.linear

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        if x.shape[-1] == 13:
            os._exit(1)
        result: torch.Tensor = self.inner(x, scale)
        return result


@pytest.mark.slow
@pytest.mark.timeout(600)  # every death costs the start of a process
def test_an_image_that_kills_its_worker_is_one_failure(
    stack: Addresses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    job = sys.modules["rayscale.batch.job"]
    opened = job.open_recipe("bicubic", Options(scale=2))
    monkeypatch.setattr(job, "open_recipe", lambda *_: (Deadly(opened[0]), opened[1]))
    store = storage.connect(tmp_path / "in")
    deadly = (3, 4, 7)  # neighbours, and the last
    for i in range(8):
        store.write(f"{i}.png", encoded(pixels(i, shape=(12, 13 if i in deadly else 12, 3))))
    summary = upscale_bucket(
        tmp_path / "in", tmp_path / "out", model="bicubic", actors=1, options=Options(scale=2)
    )
    assert summary.done == 5
    failed = [(f"{i}.png", "worker_died") for i in deadly]
    assert [(row.key, row.error) for row in summary.failed] == failed


def test_a_bad_model_or_scale_is_one_error(model: str, tmp_path: Path) -> None:
    storage.connect(tmp_path / "in").write("a.png", encoded(pixels(0)))
    places = (tmp_path / "in", tmp_path / "out")
    with pytest.raises(
        NotFoundError, match="no model 'batch-tinny' in the registry; it has batch-tiny"
    ):
        upscale_bucket(*places, model="batch-tinny")
    with pytest.raises(ConfigError, match="serves scale 2, not 3"):
        upscale_bucket(*places, model=model, options=Options(scale=3))
    with pytest.raises(ConfigError, match="not a model reference"):
        upscale_bucket(*places, model="s3://elsewhere/model")
    with pytest.raises(ConfigError, match="actors must be at least 1"):
        upscale_bucket(*places, model=model, actors=0)
    assert not (tmp_path / "out").exists()


def test_importing_the_room_is_cheap() -> None:
    import subprocess

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


_ON_GPU = """
import sys
import ray
from rayscale.batch import upscale_bucket
from rayscale.options import Options

ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
summary = upscale_bucket(sys.argv[1], sys.argv[2], model="bicubic", options=Options(scale=2))
print(summary.done, len(summary.failed))
"""


@pytest.mark.slow
def test_workers_on_gpus(tmp_path: Path) -> None:
    """Ray is told of a GPU, which it hands out without asking for it; the worker finds none and takes the CPU."""
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    source = storage.connect(tmp_path / "in")
    for i in range(5):
        source.write(f"{i}.png", encoded(pixels(i)))
    with rasterio.open(
        tmp_path / "in/scene.tif", "w", driver="GTiff", width=700, height=600, count=1, dtype="uint8", crs="EPSG:32632"
    ) as scene:  # fmt: skip
        scene.write(pixels(9, shape=(1, 600, 700)))
    told = subprocess.run(
        [sys.executable, "-c", _ON_GPU, tmp_path / "in", tmp_path / "out"],
        capture_output=True, text=True, timeout=240, check=False,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "RAYSCALE_SCENE_PIXELS": "100000",
            "PYTHONPATH": str(Path(batch.__file__).parents[2]),
        },
    )  # fmt: skip
    assert told.stdout == "6 0\n", told.stderr


_ON_A_GROWING_CLUSTER = """
import os, shutil, subprocess, sys, tempfile, threading, time
from pathlib import Path

# Ray notes there which cluster is the newest: others are not to join this one. Names of sockets are short.
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-")
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from rayscale.batch import job, upscale_bucket
from rayscale.options import Options

WORKERS, COUNT, DEADLINE = Path(sys.argv[3]), 3, time.time() + 120
cloudpickle.register_pickle_by_value(sys.modules["__main__"])


def begun():
    return len(list(WORKERS.iterdir()))


network, recipe = job.open_recipe("bicubic", Options(scale=2))


class Patient(type(network)):
    # Leaves a file of its process, and works when as many have begun as the cluster has room for at last.
    def forward(self, x, scale):
        (WORKERS / str(os.getpid())).touch()
        while begun() < COUNT and time.time() < DEADLINE:
            time.sleep(0.1)
        return super().forward(x, scale)


def grow():
    while not begun():
        time.sleep(0.1)
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster.address}"]
    nodes.append(subprocess.Popen([*start, f"--num-cpus={COUNT - 1}", "--block"], stdout=sys.stderr))


nodes = []
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
try:
    os.environ["RAY_ADDRESS"] = cluster.address
    threading.Thread(target=grow, daemon=True).start()
    network.__class__ = Patient
    job.open_recipe = lambda *_: (network, recipe)
    summary = upscale_bucket(sys.argv[1], sys.argv[2], model="bicubic", options=Options(scale=2))
    print(summary.done, len(summary.failed), begun())
finally:
    for node in nodes:
        node.terminate()
        node.wait()
    ray.shutdown()
    cluster.shutdown()
    shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)
"""


@pytest.mark.stack
def test_workers_follow_a_cluster_that_grows(tmp_path: Path) -> None:
    """A second node joins when the first worker is at work. It takes half a minute: so often Ray Data looks at the cluster."""
    source = storage.connect(tmp_path / "in")
    for i in range(40):
        source.write(f"{i}.png", encoded(pixels(i)))
    (tmp_path / "workers").mkdir()
    told = subprocess.run(
        [sys.executable, "-c", _ON_A_GROWING_CLUSTER, *(tmp_path / name for name in ("in", "out", "workers"))],
        capture_output=True, text=True, timeout=240, check=False,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "PYTHONPATH": str(Path(batch.__file__).parents[2]),
        },
    )  # fmt: skip
    assert told.stdout.splitlines()[-1:] == ["40 0 3"], told.stderr
