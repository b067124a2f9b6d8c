"""``jobs/train_aplus.py`` on a Ray of its own and on the stack of the tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL.Image
import pytest

from rayscale import registry
from rayscale.data import PrepareConfig, prepare
from rayscale.local import Addresses
from rayscale.training.run import read_result


@pytest.fixture(scope="module")
def job(checkout: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_aplus", checkout / "jobs/train_aplus.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    random = np.random.default_rng(0)
    for index in range(3):
        pixels = np.kron(
            random.integers(0, 256, (12, 12, 3), np.uint8), np.ones((8, 8, 1), np.uint8)
        )
        PIL.Image.fromarray(pixels).save(tmp_path / "source" / f"{index}.png")
    config = PrepareConfig(scales=(2,), size=96, step=96, minimum=48)
    prepare(str(tmp_path / "source"), str(tmp_path / "dataset"), config)
    return tmp_path / "dataset"


@pytest.mark.parametrize(
    ("arguments", "taught"),
    [
        ((), "jobs/prepare_dataset.py SOURCE TARGET"),
        (("--set", "model.atom=1"), "did you mean model.atoms"),
        (("--set", "data.uri=/nowhere", "--register", "x"), "MLFLOW_TRACKING_URI"),
    ],
)
def test_wrong_usage_is_explained_with_exit_code_2(
    job: ModuleType, arguments: tuple[str, ...], taught: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAYSCALE_DATASET", raising=False)
    assert job.main(list(arguments)) == 2
    assert taught in capsys.readouterr().err


def test_every_option_is_listed(job: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["--list-options"]) == 0
    shown = capsys.readouterr().out
    assert "regressors.neighbours=2048" in shown
    assert "half a million" in shown


def test_it_trains_registers_and_tells_what_is_wrong(
    stack: Addresses, job: ModuleType, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--set", f"data.uri={dataset}", "--set", "run.name=tiny"]
    for small in (
        "model.atoms=4", "model.features=4", "data.sizes=1", "dictionary.samples=500",
        "dictionary.iterations=1", "regressors.neighbours=50", "data.samples=1000",
    ):  # fmt: skip
        arguments += ["--set", small]
    assert job.main([*arguments, "--set", "regressors.neighbours=100000"]) == 1
    assert "fewer than the 100000 neighbours" in capsys.readouterr().err

    assert job.main([*arguments, "--register", "aplus-tiny", "--alias", "default"]) == 0
    result = read_result(str(dataset.parent / "runs" / "tiny"))
    assert str(result.weights) in capsys.readouterr().out
    version = registry.resolve("aplus-tiny")
    assert version.digest == result.sha256
    assert version.spec.system == "aplus"
    assert version.dataset_digest == result.dataset["digest"]
