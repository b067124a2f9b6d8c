"""What a run measures of itself on a benchmark, and when what it measured still holds."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import torch

from rayscale.errors import StorageError
from rayscale.evaluation import Report, evaluate, read_pairs
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.models.weights import load_model, save_model
from rayscale.options import Options
from rayscale.storage.lease import BusyError
from rayscale.training.config import TrainConfig
from rayscale.training.loop import train
from rayscale.training.run import Run, TrainResult, describe, read_result
from rayscale.training.validation import Validator

Make = Callable[..., TrainConfig]


def test_validation_scores_and_pictures(make_config: Make, memory: Any, small_world: Path) -> None:
    reports: list[dict[str, float]] = []
    config = make_config(f"validation.uri={small_world / 'validation'}", "validation.every=3")
    result = train(config, device="cpu", metrics=memory, report=reports.append)
    scored = {step: point for step, point in memory.points if "edsr-paper-y/psnr" in point}
    assert list(scored) == [3, 6]
    assert result.protocol == "edsr-paper-y"
    assert result.metrics["psnr"] == scored[6]["edsr-paper-y/psnr"] == result.history[-1]["psnr"]
    assert [report["step"] for report in reports] == [3, 6]
    assert reports[-1]["psnr"] == result.metrics["psnr"]
    name, step, picture = memory.images[0]
    assert (name, step, picture.shape, str(picture.dtype)) == ("100", 3, (48, 144, 3), "uint8")


@pytest.fixture
def benchmark(small_world: Path, tmp_path: Path) -> Path:
    """A benchmark of two images that a test may change."""
    return Path(shutil.copytree(small_world / "validation", tmp_path / "benchmark"))


def shorten(benchmark: Path) -> None:
    """Take one of the images away."""
    for kind in ("HR", "LR"):
        (benchmark / kind / f"101_{kind}.png").unlink()


def score(result: TrainResult, benchmark: Path) -> Report:
    """The weights that are stored on the images that are there, apart from training."""
    model = load_model(Path(str(result.weights)))
    upscaler = Upscaler(model, Options(scale=2, precision="float32"), device="cpu", calibrate=False)
    return evaluate(upscaler, read_pairs(benchmark, 2))


def test_a_finished_run_is_scored_on_the_benchmark_of_today(
    make_config: Make, memory: Any, benchmark: Path, tmp_path: Path
) -> None:
    config = make_config(f"validation.uri={benchmark}", "validation.every=3")
    first = train(config, device="cpu")
    assert first.metrics["psnr"] == pytest.approx(score(first, benchmark).psnr)
    shutil.copytree(benchmark, tmp_path / "moved")
    for path in sorted((tmp_path / "moved").glob("*/*.png")):
        path.rename(path.with_name(f"other{path.name}"))
    for same_images in (make_config(), make_config(f"validation.uri={tmp_path / 'moved'}")):
        assert train(same_images, device="cpu", metrics=memory) == first
    assert memory.points == []

    shorten(benchmark)
    again = train(config, device="cpu", metrics=memory)
    report = score(again, benchmark)
    assert memory.params == {"validation.digest.x2": report.benchmark}
    assert (again.metrics["psnr"], again.metrics["ssim"]) == pytest.approx(
        (report.psnr, report.ssim)
    )
    assert again.metrics["psnr"] != first.metrics["psnr"]
    assert again.benchmark == {"uri": str(benchmark), "digests": {"x2": report.benchmark}}
    assert [row["step"] for row in again.history] == [6], "the curve was that of other images"
    assert again.metrics["loss"] == first.metrics["loss"]
    assert (again.sha256, again.steps) == (first.sha256, first.steps)
    assert read_result(again.uri) == again
    assert train(config, device="cpu") == again
    assert [step for step, _ in memory.points] == [6], "nothing was trained"


def test_a_finished_run_without_figures_gets_them(make_config: Make, benchmark: Path) -> None:
    blind = train(make_config(), device="cpu")
    assert blind.protocol is None
    config = make_config(f"validation.uri={benchmark}")
    seen = train(config, device="cpu")
    assert (seen.sha256, seen.protocol) == (blind.sha256, "edsr-paper-y")
    assert seen.metrics["psnr"] == pytest.approx(score(seen, benchmark).psnr)
    shorten(benchmark)
    with Run(config.identified()).lease, pytest.raises(BusyError):
        train(config, device="cpu")
    save_model(create_model("edsr-baseline", scale=2), Path(str(seen.weights)))
    with pytest.raises(StorageError, match=rf"its result {seen.sha256}.*fresh=true"):
        train(config, device="cpu")


def test_a_resumed_run_leaves_out_what_was_measured_on_other_images(
    make_config: Make, benchmark: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def make(steps: int) -> TrainConfig:
        every = ("validation.every=2", f"optimizer.steps={steps}")
        return make_config(f"validation.uri={benchmark}", "run.name=a", *every)

    assert [row["step"] for row in train(make(4), device="cpu").history] == [2, 4]
    assert [row["step"] for row in train(make(6), device="cpu").history] == [2, 4, 6]
    shorten(benchmark)
    result = train(make(8), device="cpu")
    assert [row["step"] for row in result.history] == [6, 8], "step 6 was scored anew"
    assert "the scores up to step 4 were measured on images other than those" in caplog.text
    assert result.metrics["psnr"] == pytest.approx(score(result, benchmark).psnr)
    unscored = train(make_config("run.name=a", "optimizer.steps=10"), device="cpu")
    assert "psnr" not in unscored.metrics, "those of step 8 are not those of step 10"
    assert not any("PSNR" in row for row in describe(unscored))


def test_the_figures_of_a_result_are_those_of_its_weights(
    make_config: Make, memory: Any, benchmark: Path
) -> None:
    """A run that was stopped after its last scores and is asked for no more steps."""
    sets = (f"validation.uri={benchmark}", "validation.every=3", "logging.every=3")
    long = make_config(*sets, "optimizer.steps=100", "checkpoint.every=100")
    stopped = train(long, device="cpu", metrics=memory, stop=lambda: bool(memory.points))
    assert stopped.steps == 4
    result = train(make_config(*sets, "optimizer.steps=4"), device="cpu")
    assert [row["step"] for row in result.history] == [3, 4]
    assert result.metrics["psnr"] == pytest.approx(score(result, benchmark).psnr)


def test_training_goes_on_while_it_is_validated_and_nothing_changes(
    make_config: Make, memory: Any, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation of step 4 ends only once step 6 has been trained; the weights and the generators are as without."""
    options = ("logging.every=1", "optimizer.steps=8", "checkpoint.every=8", "optimizer.ema=0.9")
    plain = make_config("run.name=plain", *options)
    train(plain, device="cpu")
    passed, seen, original = threading.Event(), [], Validator.score

    def score(self: Validator, *arguments: Any) -> Any:
        seen.append(passed.wait(60))
        return original(self, *arguments)

    def log_metrics(metrics: dict[str, float], step: int) -> None:
        memory.points.append((step, metrics))
        if step == 6:
            passed.set()

    monkeypatch.setattr(Validator, "score", score)
    monkeypatch.setattr(memory, "log_metrics", log_metrics)
    config = make_config(
        "run.name=scored", f"validation.uri={benchmark}", "validation.every=4", *options
    )
    result = train(config, device="cpu", metrics=memory)
    assert seen == [True, True]
    assert [row["step"] for row in result.history] == [4, 8]
    trained = [Run(each.identified()).checkpoints.load(8).state for each in (plain, config)]
    for key in ("model", "average", "optimizer", "guard"):
        torch.testing.assert_close(trained[0][key], trained[1][key], rtol=0, atol=0)
    assert torch.equal(trained[0]["rng"]["torch"], trained[1]["rng"]["torch"])


@pytest.mark.parametrize("every", ["2", "5"], ids=["of its step", "of a later step"])
def test_a_validation_that_was_cut_off_is_made_up(
    make_config: Make, memory: Any, benchmark: Path, monkeypatch: pytest.MonkeyPatch, every: str
) -> None:
    """The first run ends at step 6 while step 4 is scored; its checkpoint is of that step, or of a later one."""
    options = (f"validation.uri={benchmark}", "validation.every=4", "logging.every=1")
    options += ("checkpoint.every=" + every, "optimizer.lr=1e-1", "optimizer.steps=10")
    whole = train(make_config("run.name=whole", *options), device="cpu")
    halves = make_config("run.name=halves", *options)

    def hang(self: Validator, model: Any, cancelled: Callable[[], bool]) -> Any:
        while not cancelled():
            time.sleep(0.01)
        raise CancelledError

    def log_metrics(metrics: dict[str, float], step: int) -> None:
        if step == 6:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Validator, "score", hang)
        patch.setattr(memory, "log_metrics", log_metrics)
        with pytest.raises(InterruptedError):
            train(halves, device="cpu", metrics=memory)
    assert Run(halves.identified()).checkpoints.steps()[-1] == (4 if every == "2" else 5)
    result = train(halves, device="cpu")
    assert result.history == whole.history
    assert [row["step"] for row in result.history] == [4, 8, 10]
    assert {**result.best, "weights": ""} == {**whole.best, "weights": ""}
    assert result.sha256 == whole.sha256
