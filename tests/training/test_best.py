"""The weights with the best validation score: kept beside the numbered checkpoints, and what is published."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayscale.cli.train import chosen
from rayscale.evaluation import evaluate, read_pairs
from rayscale.files import sha256_of
from rayscale.imaging.metrics import EDSR_PAPER
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.models.weights import load_model
from rayscale.options import Options
from rayscale.storage import connect
from rayscale.training.checkpoint import Checkpoints
from rayscale.training.config import TrainConfig
from rayscale.training.loop import train
from rayscale.training.run import describe, read_result

Make = Callable[..., TrainConfig]
UNEVEN = ("optimizer.lr=1e-1", "optimizer.steps=8", "validation.every=1")
"""A rate at which scores go up and down."""


def test_the_best_weights_are_kept_and_published_unless_the_last_are_wanted(
    make_config: Make, small_world: Path
) -> None:
    config = make_config(*UNEVEN, f"validation.uri={small_world / 'validation'}")
    result = train(config, device="cpu")
    highest = max(result.history, key=lambda row: row["psnr"])
    assert highest["step"] < result.steps, "the case needs scores that fall at the end"
    assert result.best["step"] == highest["step"]
    assert result.best["scores"] == {key: highest[key] for key in ("psnr", "ssim")}
    assert read_result(result.uri) == result
    path = Path(result.best["weights"])
    assert result.best["sha256"] == sha256_of(path)
    files = [each.name for each in Path(result.uri, "checkpoints").glob("best*")]
    assert sorted(files) == sorted(["best.json", path.name]), "those of before are gone"
    # Scored anew, by the evaluation of the command line.
    upscaler = Upscaler(load_model(path), Options(scale=2, precision="float32"), calibrate=False)
    report = evaluate(upscaler, read_pairs(str(small_world / "validation"), 2), protocol=EDSR_PAPER)
    assert report.psnr == pytest.approx(highest["psnr"], abs=1e-6)
    assert f"at step {int(highest['step'])}" in describe(result)["best"]

    best, last = chosen(result, "best"), chosen(result, "last")
    assert (best.weights, best.metrics["psnr"]) == (str(path), highest["psnr"])
    assert last == result


def test_without_validation_the_last_weights_are_the_only_ones(make_config: Make) -> None:
    result = train(make_config(), device="cpu")
    assert result.best == {}
    assert chosen(result, "best") == result


def test_the_best_of_a_run_that_was_killed_is_that_of_the_whole(
    make_config: Make, small_world: Path
) -> None:
    options = (*UNEVEN, f"validation.uri={small_world / 'validation'}")
    whole = train(make_config("run.name=whole", *options), device="cpu")
    halves = make_config("run.name=halves", *options)

    class StopError(Exception):
        pass

    def stop(figures: dict[str, float]) -> None:
        if figures["step"] == 5:
            raise StopError

    with pytest.raises(StopError):
        train(halves, device="cpu", report=stop)
    parts = train(halves, device="cpu")
    assert {**parts.best, "weights": ""} == {**whole.best, "weights": ""}


def test_the_best_after_the_last_step_is_the_model(make_config: Make, small_world: Path) -> None:
    """The same bytes, so that a registry knows both as one version."""
    config = make_config("optimizer.lr=1e-4", f"validation.uri={small_world / 'validation'}")
    result = train(config, device="cpu")
    assert (result.best["step"], result.best["sha256"]) == (result.steps, result.sha256)


def test_other_images_drop_what_was_chosen_by_the_old_ones(
    make_config: Make, small_world: Path, tmp_path: Path
) -> None:
    first = train(
        make_config(*UNEVEN, f"validation.uri={small_world / 'validation'}"), device="cpu"
    )
    assert first.best
    assert train(make_config(*UNEVEN), device="cpu").best == first.best, "no images are asked for"
    other = tmp_path / "other"
    shutil.copytree(small_world / "validation", other)
    for path in other.glob("*/101*"):
        path.unlink()
    scored = train(make_config(*UNEVEN, f"validation.uri={other}"), device="cpu")
    assert scored.best == {}
    assert scored.sha256 == first.sha256


KILLED = """
import sys, time
from rayscale.models.systems import create_model
from rayscale.storage import connect
from rayscale.storage.local import LocalStore
from rayscale.training.checkpoint import Checkpoints

def slow(self, key, *arguments, original, **named):
    if key == sys.argv[2]:
        print("now", flush=True)
        time.sleep(60)
    return original(self, key, *arguments, **named)

def patch(name):
    original = getattr(LocalStore, name)
    setattr(LocalStore, name, lambda self, key, *a, **k: slow(self, key, *a, original=original, **k))

patch("write_file")
patch("write")
patch("delete")
checkpoints = Checkpoints(connect(sys.argv[1]))
model = create_model("edsr-baseline", scale=2, blocks=1, filters=4)
checkpoints.save_best(2, model, {"psnr": 31.0, "ssim": 0.9}, {})
checkpoints.wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "step"),
    [("best-00000002.safetensors", 1), ("best.json", 1), ("best-00000001.safetensors", 2)],
    ids=["weights", "record", "removal"],
)
def test_a_kill_at_any_write_leaves_a_best_that_is_whole(
    tmp_path: Path, checkout: Path, key: str, step: int
) -> None:
    checkpoints = Checkpoints(connect(tmp_path))
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, blocks=1, filters=4)
    checkpoints.save_best(1, model, {"psnr": 30.0, "ssim": 0.9}, {})
    checkpoints.wait()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), key],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(checkout / "platform")},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    best = checkpoints.best()
    assert best is not None
    assert best.step == step
    assert best.sha256 == sha256_of(tmp_path / best.file)


def test_a_record_that_cannot_be_read_is_no_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(connect(tmp_path))
    for damage in ("{", "[]", json.dumps({"format": 1, "step": 1})):
        (tmp_path / "best.json").write_text(damage)
        assert checkpoints.best() is None
    assert "best.json is passed over" in caplog.text


def test_one_save_waits_for_the_one_before_it(tmp_path: Path, monkeypatch: Any) -> None:
    """A second checkpoint waits until the first is committed; nothing is skipped."""
    checkpoints = Checkpoints(connect(tmp_path))
    model = create_model("edsr-baseline", scale=2, blocks=1, filters=4)
    done: list[int] = []
    original = Checkpoints._save

    def save(self: Checkpoints, step: int, *rest: Any) -> None:
        original(self, step, *rest)
        done.append(step)

    monkeypatch.setattr(Checkpoints, "_save", save)
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step}, model)
        assert done[: step - 1] == list(range(1, step))
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2, 3]
