"""``benchmarks/warm_start_study.py`` on the plain loop: four runs, their curves as JSON and as a plot."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from rayscale.resampling import degrade
from rayscale.training.config import load_config
from rayscale.training.loop import train
from rayscale.training.run import TrainResult

SMALL = [
    "model.blocks=1",
    "model.filters=4",
    "data.patch=10",
    "data.batch=2",
    "optimizer.steps=4",
    "validation.every=2",
]


@pytest.fixture
def job(checkout: Path) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(checkout / "benchmarks" / "warm_start_study.py")))


@pytest.fixture
def world(dataset: Path) -> Path:
    """The folder of a dataset, with a benchmark in x3/ and x4/."""
    folder = dataset.parent
    pixels = np.asarray(PIL.Image.open(folder / "source" / "0.png"))
    for scale in (3, 4):
        for kind, image in (("HR", pixels[:48, :48]), ("LR", degrade(pixels[:48, :48], scale))):
            (folder / f"x{scale}" / kind).mkdir(parents=True)
            PIL.Image.fromarray(image).save(folder / f"x{scale}" / kind / f"a_{kind}.png")
    return folder


def test_the_study_compares_both_starts(
    job: SimpleNamespace,
    world: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = [f"data.uri={world / 'dataset'}", *SMALL]
    x2 = train(load_config(None, [*base, "run.name=x2"]), device="cpu")
    sets = [f"validation.uri={world}/x{{scale}}", *base]
    arguments = [str(x2.weights), "--output", str(world / "study")]
    arguments += [word for key in sets for word in ("--set", key)]
    monkeypatch.setitem(job.main.__globals__, "on_ray", lambda: lambda c: train(c, device="cpu"))
    assert job.main(arguments) == 0
    curves = json.loads((world / "study.json").read_text())
    assert [(curve["scale"], curve["start"]) for curve in curves] == [
        (3, "from x2"), (3, "from scratch"), (4, "from x2"), (4, "from scratch"),
    ]  # fmt: skip
    assert all([row["step"] for row in curve["history"]] == [2, 4] for curve in curves)
    assert curves[0]["history"] != curves[1]["history"]
    assert len({curve["run"] for curve in curves}) == 4
    assert PIL.Image.open(world / "study.png").width > 800
    assert "x4 from scratch" in capsys.readouterr().out


def test_a_study_needs_a_benchmark(
    job: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job.main(["x2.safetensors", "--set", "data.uri=/d"]) == 2
    assert "validation.uri" in capsys.readouterr().err
    assert job.main(["x2.safetensors", "--set", "data.uri=/d", "--output", "s3://bucket"]) == 2
    assert "s3://bucket names no object" in capsys.readouterr().err


def test_a_run_without_scores_is_no_curve(
    job: SimpleNamespace, world: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A finished run that was trained without a benchmark, or with another, has the same name as one with it."""
    options = [f"data.uri={world / 'dataset'}", f"validation.uri={world}/x{{scale}}", *SMALL]
    arguments = ["x2.safetensors", *(word for key in options for word in ("--set", key))]
    for history in ([], [{"step": 4.0, "psnr": 30.0}]):  # scored again on other images
        result = TrainResult("a", "/runs/a", True, 4, {}, history=history)
        monkeypatch.setitem(job.main.__globals__, "on_ray", lambda result=result: lambda _: result)
        assert job.main(arguments) == 1
        told = capsys.readouterr().err
        assert re.search(r"/runs/a has no scores of step 2 .* set run\.uri", told)
