"""The job on the real Ray, S3 and MLflow of the test run, and its command line."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from rayscale import cluster
from rayscale.cli import compare, run
from rayscale.errors import StorageError
from rayscale.evaluation import comparison, evaluate, read_pairs
from rayscale.imaging.metrics import PROTOCOLS
from rayscale.inference import Upscaler
from rayscale.local import Addresses
from rayscale.models.builtin import open_builtin
from rayscale.models.systems import create_model
from rayscale.models.weights import load_model, save_model
from rayscale.options import Options
from rayscale.registry.client import connect as mlflow
from rayscale.resampling import degrade
from rayscale.storage import connect

IMAGES = 5  # more than one task takes


def main(arguments: list[str]) -> int:
    """The command of the script, in this process."""
    return run("compare", *arguments)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``Set5/x2``, ``Set5/x3`` of small pictures, and weights of a tiny EDSR for x2."""
    folder = tmp_path_factory.mktemp("sets")
    random = np.random.default_rng(0)
    for scale in (2, 3):
        store = connect(folder / "Set5" / f"x{scale}")
        for number in range(IMAGES):
            hr = random.integers(0, 256, (48, 42, 3), dtype=np.uint8)
            for kind, pixels in (("HR", hr), ("LR", degrade(hr, scale))):
                file = io.BytesIO()
                PIL.Image.fromarray(pixels).save(file, "png")
                store.write(f"{kind}/img{number}_{kind}.png", file.getvalue())
    torch.manual_seed(0)
    save_model(create_model("edsr-baseline", scale=2, filters=4, blocks=1), folder / "x2.st")
    return folder


def test_the_whole_job(
    stack: Addresses, s3: Any, sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        [
            "--model", "bicubic", "--model", f"edsr-baseline={sets}/x2.st",
            "--data", f"{sets}/Set5/x{{scale}}", "--scale", "2", "--scale", "3", "--ensemble",
            "--protocol", "rgb", "--suite", "satellite", "--device", "cpu",
            "--output", f"{s3.uri}/scores", "--crops", "img1:5,6,24,20", "--json",
        ]
    )  # fmt: skip
    shown = capsys.readouterr()
    assert code == 0, shown.err
    rows = json.loads(shown.out)
    found = [(row["scale"], row["model"]) for row in rows]
    assert found == [
        (2, "bicubic"), (2, "bicubic+"), (2, "edsr-baseline"), (2, "edsr-baseline+"),
        (3, "bicubic"), (3, "bicubic+"),
    ]  # fmt: skip
    # The same figures as without Ray, whatever the tasks were.
    row = rows[3]
    model = load_model(sets / "x2.st")
    upscaler = Upscaler(model, Options(scale=2, precision="float32", ensemble=True), device="cpu")
    report = evaluate(upscaler, read_pairs(f"{sets}/Set5/x2", 2), protocol=PROTOCOLS["rgb"])
    assert [image["name"] for image in row["images"]] == [f"img{i}" for i in range(IMAGES)]
    assert row["psnr"] == pytest.approx(report.psnr, abs=1e-3)
    assert row["ssim"] == pytest.approx(report.ssim, abs=1e-4)
    assert row["published"] is None
    assert {"cpsnr", "sam", "ergas", "frc", "reflectance"} <= row.keys()

    store = connect(f"{s3.uri}/scores")
    assert [entry.key for entry in store.list()] == [
        "crops/Set5_x2_img1.png", "crops/Set5_x3_img1.png", "psnr_parameters.png",
        "psnr_seconds.png", "table.json", "table.md",
    ]  # fmt: skip
    assert json.loads(store.read("table.json")) == rows
    assert b"| Set5 |    x3 |" in store.read("table.md")
    assert PIL.Image.open(io.BytesIO(store.read("crops/Set5_x2_img1.png"))).format == "PNG"

    run = mlflow().get_run(shown.err.split("MLflow run ")[1].split()[0])
    assert run.data.metrics["Set5/x2/edsr-baseline-plus/psnr"] == pytest.approx(row["psnr"])
    assert run.data.params["protocol"] == "rgb"
    assert "table.md" in [file.path for file in mlflow().list_artifacts(run.info.run_id)]


def test_errors_of_the_tasks_and_of_the_models_are_told(
    stack: Addresses, sets: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    weights = f"edsr-baseline={sets}/x2.st"
    there = ["--data", f"{sets}/Set5/x3"]
    assert main(["--model", weights, *there, "--scale", "3"]) == 2
    assert "scale 2, not 3" in capsys.readouterr().err
    assert main(["--model", "bicubic", *there, "--scale", "2"]) == 1
    assert "bicubic on" in capsys.readouterr().err
    assert main(["--model", "nobody", *there, "--scale", "3"]) == 2
    assert "MLFLOW_TRACKING_URI" in capsys.readouterr().err
    cluster.connect()
    with monkeypatch.context() as alone:
        alone.delenv("RAY_ADDRESS")  # as if this cluster were of this process
        assert main(["--model", "bicubic", *there, "--scale", "3", "--device", "cuda"]) == 2
    assert "no GPU" in capsys.readouterr().err
    # Two weights of one system are two columns.
    options = ["--model", weights, "--model", weights, "--data", f"{sets}/Set5/x2", "--scale", "2"]
    assert main(options) == 0
    shown = capsys.readouterr()
    assert "edsr-baseline |" in shown.out
    assert "edsr-baseline #2 |" in shown.out
    assert "MLflow" not in shown.err


def test_a_bundled_system_is_one_column_over_its_scales(
    stack: Addresses, sets: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("MLFLOW_TRACKING_URI")

    def draw(*_: object) -> None:
        raise StorageError("no pictures today")

    monkeypatch.setattr(comparison, "draw_crops", draw)
    data = ["--data", f"{sets}/Set5/x{{scale}}", "--scale", "2", "--scale", "3"]
    assert main(["--model", "aplus", *data, "--output", f"{tmp_path}/out", "--json"]) == 1
    shown = capsys.readouterr()
    assert "no pictures today" in shown.err
    rows = json.loads(shown.out)
    assert [(row["scale"], row["model"]) for row in rows] == [(2, "aplus"), (3, "aplus")]
    for row in rows:
        opened = open_builtin(f"aplus-x{row['scale']}")
        assert row["weights"] == opened.digest
        pairs = read_pairs(f"{sets}/Set5/x{row['scale']}", row["scale"])
        report = evaluate(
            Upscaler(
                opened.network,
                Options(scale=row["scale"], precision="float32"),
                device="cpu",
            ),
            pairs,
        )
        assert row["psnr"] == pytest.approx(report.psnr, abs=1e-3)
    # What was scored is saved before anything is drawn.
    assert json.loads((tmp_path / "out" / "table.json").read_bytes()) == rows


def test_the_command_line(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = ["--model", "bicubic", "--data", str(sets / "Set5/x2"), "--scale", "2"]
    for arguments, message in (
        ([*two, "--model", "b", "--weights", "w"], "SYSTEM=WEIGHTS"),
        ([*two, "--crops", "img1"], "--output"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert main([*two, "--scale", "3"]) == 2
    assert "x2 does not have the scales x2, x3; put {scale}" in capsys.readouterr().err
    assert main([*two, "--output", "o", "--crops", "nobody"]) == 1
    assert "img0, img1" in capsys.readouterr().err
    assert main([*two, "--output", "o", "--crops", "img1:1,2,3"]) == 2
    assert "is not a window" in capsys.readouterr().err
    assert main([*two, "--output", "o", "--crops", "img1:20,5,24,20"]) == 1
    assert "leaves the image of 42x48" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_is_told_in_one_line(
    sets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals, code: int,
) -> None:  # fmt: skip
    def interrupt(*_: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(compare, "score", interrupt)
    found = {
        each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        assert main(["--model", "bicubic", "--data", str(sets), "--scale", "2"]) == code
    finally:  # the next signal is to end a process that was interrupted, but not this one
        for each, handler in found.items():
            signal.signal(each, handler)
    assert capsys.readouterr().err == "interrupted: the same command starts over\n"
