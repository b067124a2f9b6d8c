"""Publishing and resolving on a real MLflow server with its artifacts in a real S3 server."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from rayscale import registry, storage
from rayscale.cli import main
from rayscale.errors import InputError, NotFoundError, StorageError
from rayscale.evaluation import evaluate, read_pairs
from rayscale.export import Kind, export_model
from rayscale.inference import Upscaler
from rayscale.local import Addresses
from rayscale.models.network import SuperResolver
from rayscale.models.systems import create_model
from rayscale.models.weights import save_model
from rayscale.options import Options
from rayscale.registry.opening import open_model
from rayscale.resampling import degrade
from rayscale.settings import get_settings

REPORT = {"protocol": "edsr-paper-y", "scale": 2, "psnr": 33.1, "ssim": 0.9, "images": [1, 2]}


@pytest.fixture(autouse=True)
def cache(stack: Addresses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("RAYSCALE_CACHE_DIR", str(tmp_path / "cache"))
    get_settings.cache_clear()
    yield tmp_path / "cache"
    get_settings.cache_clear()


@pytest.fixture
def name() -> str:
    return f"tiny-{uuid.uuid4().hex[:8]}"


def tiny(seed: int) -> SuperResolver:
    torch.manual_seed(seed)
    return create_model("edsr-baseline", scale=2, filters=8, blocks=1)


def test_published_is_what_was_given(name: str, tmp_path: Path) -> None:
    model = tiny(0)
    path = tmp_path / "w.safetensors"
    save_model(model, path)
    version = registry.publish(
        path, name, scores={"Set5": REPORT}, dataset_digest="d1", alias="production",
        tags={"team": "x"}, description="first",
    )  # fmt: skip
    assert version.ref == f"{name}/1"
    assert version.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert version.spec == model.spec
    assert version.aliases == ("production",)
    assert version.dataset_digest == "d1"
    assert version.scores == {
        "Set5": {"protocol": "edsr-paper-y", "scale": 2, "psnr": 33.1, "ssim": 0.9}
    }
    loaded = registry.load(f"{name}@production")
    x = torch.rand(1, 3, 9, 7) * 255
    with torch.inference_mode():
        assert torch.equal(loaded(x, 2), model.eval()(x, 2))
    assert version in registry.list_models()


def test_the_same_weights_are_one_version(name: str, tmp_path: Path) -> None:
    save_model(tiny(1), tmp_path / "a")
    save_model(tiny(2), tmp_path / "b")
    first = registry.publish(
        tmp_path / "a", name, scores={"Set5": REPORT, "Set14": REPORT}, description="first"
    )
    other = registry.publish(tmp_path / "b", name)
    again = registry.publish(
        tmp_path / "a",
        name,
        scores={"Set5": REPORT | {"psnr": 34.0}},
        dataset_digest="d2",
        alias="best",
    )
    assert (first.version, other.version, again.version) == (1, 2, 1)
    assert [one.version for one in registry.list_models() if one.name == name] == [2, 1]
    assert again.aliases == ("best",)
    assert (again.run_id, again.description) == (first.run_id, "first")
    assert again.dataset_digest == "d2"
    assert {key: value["psnr"] for key, value in (again.scores or {}).items()} == {
        "Set5": 34.0, "Set14": 33.1,
    }  # fmt: skip
    assert registry.publish(tmp_path / "a", f"{name}-too").version == 1


def test_the_command_publishes_with_the_figures_of_a_benchmark(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny(1)
    save_model(model, tmp_path / "w")
    hr = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    data = tmp_path / "set"
    data.mkdir()
    for kind, pixels in (("HR", hr), ("LR", degrade(hr, 2))):
        PIL.Image.fromarray(pixels).save(data / f"a_{kind}.png")
    command = ["rayscale", "register", str(tmp_path / "w"), "--name", name]
    monkeypatch.setattr(sys, "argv", [*command, "--data", str(data), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    upscaler = Upscaler(model, Options(scale=2, precision="float32"), calibrate=False)
    report = evaluate(upscaler, read_pairs(data, 2))
    assert scores["benchmark"] == report.benchmark
    assert scores["psnr"] == pytest.approx(report.psnr)
    assert registry.resolve(name).scores == scores


def test_an_infinite_figure_is_kept_as_json(name: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    save_model(tiny(1), tmp_path / "w")
    exact = {"protocol": "edsr-paper-y", "psnr": math.inf, "ssim": 1.0}
    registry.publish(tmp_path / "w", name, scores={"flat": exact})
    version = registry.publish(tmp_path / "w", name, scores={"Set5": REPORT})
    assert (version.scores or {})["flat"] == exact
    stored = MlflowClient().get_model_version(name, "1").tags["rayscale.scores"]
    assert json.loads(stored, parse_constant=pytest.fail)["flat"]["psnr_is"] == "Infinity"


def test_a_version_whose_run_was_deleted_for_good_is_not_taken(name: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    save_model(tiny(1), tmp_path / "w")
    digest = hashlib.sha256((tmp_path / "w").read_bytes()).hexdigest()
    client = MlflowClient()
    client.create_registered_model(name)
    for run in (None, "0" * 32):
        client.create_model_version(
            name, source="s3://mlflow/gone", run_id=run, tags={"rayscale.sha256": digest}
        )
    version = registry.publish(tmp_path / "w", name)
    assert version.version == 3
    registry.load(version)
    client.delete_run(version.run_id)  # into the bin: its files are still there
    assert registry.publish(tmp_path / "w", name).version == 3
    registry.load(f"{name}/3")


def test_references(name: str, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        save_model(tiny(seed), tmp_path / "w")
        registry.publish(tmp_path / "w", name)
    assert registry.resolve(name).version == 3  # the newest,
    assert registry.resolve(f"{name}/2").version == 2
    assert registry.set_alias(name, "default", 1).aliases == ("default",)
    assert registry.resolve(name).version == 1  # unless one is the default
    registry.set_alias(name, "default", 2)
    assert registry.resolve(f"{name}@default").version == 2
    with pytest.raises(NotFoundError, match="no version 9; it has 1, 2, 3"):
        registry.resolve(f"{name}/9")
    with pytest.raises(NotFoundError, match="no alias 'best'; it has default"):
        registry.resolve(f"{name}@best")
    with pytest.raises(NotFoundError, match=f"no model '{name}x' in the registry; it has {name}"):
        registry.resolve(f"{name}x")


def test_tampered_weights_are_refused(name: str, tmp_path: Path, cache: Path) -> None:
    save_model(tiny(1), tmp_path / "w")
    version = registry.publish(tmp_path / "w", name)
    local = registry.fetch(version)
    local.write_bytes(b"damaged")  # in the cache: fetched again
    assert hashlib.sha256(registry.fetch(version).read_bytes()).hexdigest() == version.digest

    bucket = storage.connect("s3://mlflow")
    (stored,) = [e.key for e in bucket.list() if version.run_id in e.key and "weights" in e.key]
    save_model(tiny(2), tmp_path / "other")
    bucket.write_file(stored, tmp_path / "other")  # a valid model, but not the published one
    local.unlink()
    with pytest.raises(StorageError, match=version.digest):
        registry.load(version.ref)
    assert not list(cache.rglob("*.safetensors"))
    assert registry.publish(tmp_path / "w", name).version == version.version  # the way out
    registry.load(version.ref)


def test_what_others_registered_is_refused(name: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    client.create_registered_model(name)
    client.create_model_version(name, source="s3://mlflow/x", tags={"rayscale.sha256": "../../x"})
    with pytest.raises(InputError, match="not published by rayscale"):
        registry.load(name)


def test_weights_from_a_bucket_and_a_training_run(name: str, tmp_path: Path) -> None:
    save_model(tiny(4), tmp_path / "w")
    bucket = storage.connect("s3://mlflow/elsewhere")
    bucket.write_file("run/model.safetensors", tmp_path / "w")
    logger = registry.MlflowLogger("training", name)
    assert logger.flush()
    version = registry.publish(f"{bucket.uri}/run/model.safetensors", name, run_id=logger.run_id)
    logger.close()
    assert version.run_id == logger.run_id
    with pytest.raises(NotFoundError):
        registry.publish(f"{bucket.uri}/run/other", name)


@pytest.mark.parametrize(
    ("kind", "library", "ending"),
    [("onnx", "onnxruntime", ".onnx"), ("openvino", "openvino", ".xml")],
)
def test_an_export_from_a_bucket(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    library: str,
    ending: str,
) -> None:
    """Both files of OpenVINO's are fetched and kept."""
    pytest.importorskip(library)
    save_model(tiny(6), tmp_path / "w")
    export_model(open_model("edsr-baseline", weights=tmp_path / "w"), kind, tmp_path / f"m{ending}")
    bucket = storage.connect(f"s3://mlflow/exports/{name}")
    for file in tmp_path.glob("m.*"):
        bucket.write_file(f"run/{file.name}", file)
    command = ["rayscale", "register", f"{bucket.uri}/run/m{ending}", "--name", name]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    options = Options(scale=2, precision="float32")
    image = np.random.default_rng(1).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    want = Upscaler(tiny(6), options).upscale_pixels(image)
    found = Upscaler(open_model(f"{name}/1").network, options).upscale_pixels(image)
    assert np.abs(found.astype(int) - want.astype(int)).max() <= 1


def test_mlflow_tools_can_load_it(name: str, tmp_path: Path) -> None:
    import mlflow

    model = tiny(5).eval()
    save_model(model, tmp_path / "w")
    registry.publish(tmp_path / "w", name)
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    loaded = mlflow.pyfunc.load_model(f"models:/{name}/1")
    x = np.random.default_rng(0).uniform(0, 255, (2, 3, 6, 5)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x), 2).numpy()
    np.testing.assert_allclose(loaded.predict(x), expected, atol=1e-4)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 3, -1, -1)
    files = [
        path.name
        for path in Path(mlflow.artifacts.download_artifacts(f"models:/{name}/1")).iterdir()
    ]
    assert not [file for file in files if file.endswith((".pkl", ".pickle", ".pth"))]
