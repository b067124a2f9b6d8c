"""A run becomes a bundled model and its card, whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL.Image
import pytest

from rayscale.evaluation import evaluate, read_pairs
from rayscale.imaging.metrics import RGB
from rayscale.inference import Upscaler
from rayscale.models.network import SuperResolver
from rayscale.models.systems import create_model
from rayscale.models.weights import load_model
from rayscale.options import Options
from rayscale.resampling import degrade
from rayscale.storage import connect
from rayscale.training.config import load_config
from rayscale.training.run import Run


@pytest.fixture
def job(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The command, with a folder of its own to bundle into."""
    spec = importlib.util.spec_from_file_location(
        "bundle_model", checkout / "benchmarks/bundle_model.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "bundled").mkdir()
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "bundled")
    return module


def network() -> SuperResolver:
    return create_model("edsr-baseline", scale=2, filters=4, blocks=1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a result after 4 steps and a checkpoint of its own."""
    config = load_config(
        None,
        ["data.uri=/data", f"run.uri={tmp_path}/runs", "run.name=r", "run.seed=7", "model.scale=2"],
    )
    run = Run(config.resolved())
    run.claim()
    model = network()
    save(run, 4, model)
    run.finish(model, {"steps": 4, "metrics": {}, "history": [{"step": 4.0, "psnr": 30.5}]})
    return run


def save(run: Run, step: int, model: SuperResolver) -> None:
    run.checkpoints.save(step, {"history": [{"step": float(step), "psnr": 31.5}]}, model)
    run.checkpoints.wait()


@pytest.fixture
def benchmark(tmp_path: Path) -> str:
    """``{odd}/x2``: braces of a folder are no placeholders."""
    store = connect(tmp_path / "{odd}" / "x2")
    hr = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    for kind, pixels in (("HR", hr), ("LR", degrade(hr, 2))):
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, "png")
        store.write(f"{kind}/a_{kind}.png", file.getvalue())
    return str(tmp_path / "{odd}" / "x{scale}")


def bundle(job: ModuleType, run: Run, *options: str) -> int:
    words = ("--summary", "tiny", "--data", "none", "--data-licence", "CC0", "--command", "train")
    code: int = job.main([run.config.uri, "tiny-x2", *words, *options])
    return code


def test_the_card_says_what_the_weights_are(job: ModuleType, run: Run, benchmark: str) -> None:
    assert bundle(job, run, "--benchmark", f"Mine={benchmark}", "--protocol", "rgb") == 0
    weights = job.BUNDLED / "tiny-x2.safetensors"
    card = json.loads((job.BUNDLED / "tiny-x2.json").read_text())
    assert sorted(path.name for path in job.BUNDLED.iterdir()) == [
        "tiny-x2.json",
        "tiny-x2.safetensors",
    ]
    assert weights.read_bytes() == run.store.read("model.safetensors")
    assert card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (card["steps"], card["history"]) == (4, [{"step": 4.0, "psnr": 30.5}])
    (row,) = card["figures"]
    report = evaluate(
        Upscaler(
            load_model(weights),
            Options(scale=2, precision="float32"),
            calibrate=False,
        ),
        read_pairs(benchmark.replace("{scale}", "2"), 2),
        protocol=RGB,
    )
    assert (row["set"], row["scale"], row["protocol"]) == ("Mine", 2, "rgb")
    assert row["psnr"] == pytest.approx(report.psnr, abs=6e-4)
    settings = card["recipe"]
    assert settings["run.seed"] == 7
    assert settings["optimizer.lr"] == run.config.optimizer.lr
    assert settings["precision"] == "auto"
    assert not [key for key in settings if key.startswith(("workers.", "adversarial.", "logging."))]
    assert "data.uri" not in settings


def test_what_trained_longest_is_taken(job: ModuleType, run: Run) -> None:
    save(run, 9, network())
    assert bundle(job, run) == 0
    card = json.loads((job.BUNDLED / "tiny-x2.json").read_text())
    assert (card["steps"], card["history"]) == (9, [{"step": 9.0, "psnr": 31.5}])
    weights = (job.BUNDLED / "tiny-x2.safetensors").read_bytes()
    assert weights == run.store.read("checkpoints/step-00000009/weights.safetensors")


def test_a_failure_leaves_what_was_bundled(
    job: ModuleType, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert bundle(job, run) == 0
    before = {path.name: path.read_bytes() for path in job.BUNDLED.iterdir()}
    save(run, 9, network())
    assert bundle(job, run, "--benchmark", f"Mine={tmp_path}/nowhere") == 1
    monkeypatch.setattr(job, "MOST_BYTES", 10)
    assert bundle(job, run) == 1
    assert "more than the 10" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in job.BUNDLED.iterdir()} == before


def test_weights_that_are_not_those_of_the_result_are_refused(
    job: ModuleType, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.store.write("model.safetensors", b"other")
    assert bundle(job, run) == 1
    assert "sha256" in capsys.readouterr().err
    assert not list(job.BUNDLED.iterdir())
