"""What a run tells of itself while it runs, against figures that are known otherwise."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.spread import make, step

from rayscale.data.multiscale import lr_sides
from rayscale.models.systems import create_model
from rayscale.training.config import TrainConfig
from rayscale.training.loop import train
from rayscale.training.metrics import ConsoleLogger, duration
from rayscale.training.progress import Progress, peak_flops, step_flops

Make = Callable[..., TrainConfig]


def test_operations_of_a_step_are_those_of_its_convolutions() -> None:
    """EDSR of 2 blocks of 8 filters at x2, written out: 2 operations per product, the backward pass twice the forward."""
    per_pixel = 9 * (3 * 8 + 5 * 8 * 8 + 8 * 32 + 4 * 8 * 3)
    spec = create_model("edsr-baseline", scale=2, blocks=2, filters=8).spec
    assert step_flops(spec, {2: 12}, batch=4) == 6 * per_pixel * 12 * 12 * 4
    assert peak_flops(torch.device("cpu"), torch.float32) > 1e8


def test_mixed_scales_share_the_size_of_the_target() -> None:
    """VDSR computes at the target's size: a step of three scales costs what one of the same patches at x2 does."""
    spec = create_model("vdsr", blocks=3, filters=8).spec
    sides = lr_sides(24, (2, 3, 4), mixed=True)
    assert sides == {2: 24, 3: 16, 4: 12}
    assert step_flops(spec, sides, batch=12) == pytest.approx(step_flops(spec, {2: 24}, batch=12))


def test_the_norm_is_that_of_the_gradient() -> None:
    trainer = make(0, 1)
    step(trainer, 1)
    squares = [
        float(p.grad.double().square().sum())
        for p in trainer.model.parameters()
        if p.grad is not None
    ]
    assert trainer.figures()["grad_norm"] == pytest.approx(math.sqrt(sum(squares)), rel=1e-5)
    clipped = make(0, 1, "optimizer.clip=norm", "optimizer.clip_at=0.5")
    step(clipped, 1)
    assert clipped.figures()["grad_norm"] == pytest.approx(0.5, rel=1e-4)


def test_time_left_and_share_of_the_peak_follow_from_the_pace() -> None:
    trainer = make(0, 1)
    progress = Progress(trainer, work=1e6, steps=100)
    progress.add(waiting=1.0, seconds=4.0, steps=2)
    trainer.step = 2
    figures = progress.figures()
    assert (figures["steps_per_s"], figures["data_wait"]) == (0.5, 0.25)
    assert figures["patches_per_s"] == 3.0
    assert figures["flops"] == 5e5
    assert figures["peak_share"] == 5e5 / peak_flops(trainer.device, trainer.dtype)
    assert figures["memory_bytes"] > 1e7
    assert figures["seconds_left"] > 0
    assert progress.interval.steps == 0
    assert progress.total.steps == 2


def test_the_console_has_one_line_with_units(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {
        "loss": 5.1234, "grad_norm": 0.5, "lr": 1e-4, "steps_per_s": 2.5, "patches_per_s": 40.0, "data_wait": 0.01,
        "flops": 4e11, "peak_share": 0.4, "memory_bytes": 2**30, "slowest_rank": 1.0, "slowest_lag": 0.07,
        "seconds_left": 93784.0,
    }  # fmt: skip
    logger = ConsoleLogger(1000)
    for _ in range(2):
        logger.log_metrics(figures, 100)
    line = (
        "step 100/1000  loss 5.123  gradient 0.5  lr 0.0001  2.5 steps/s  40 patches/s  data 1.0 %  "
        "0.4 TFLOP/s (40 % of peak)  1.00 GiB  slowest rank 1 (+7 %)  1 d 2 h left\n"
    )
    assert capsys.readouterr().out == 2 * line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")],
)
def test_durations_have_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_trace_is_what_perfetto_opens(make_config: Make) -> None:
    """Chrome's format: a list of events, of which complete ones have a name, a start and a duration in microseconds."""
    result = train(make_config("logging.profile=2", "optimizer.steps=8"), device="cpu")
    (trace,) = Path(result.uri).glob("profile/*")
    assert trace.name == "after-step-00000003.json.gz"
    events: list[dict[str, Any]] = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    complete = [event for event in events if event.get("ph") == "X"]
    assert all(event["dur"] >= 0 and event["ts"] > 0 for event in complete)
    names = {event["name"] for event in complete}
    assert "aten::conv2d" in names
    assert {name for name in names if name.startswith("ProfilerStep")} == {
        "ProfilerStep#3",
        "ProfilerStep#4",
    }
    plain = train(make_config("run.name=plain", "optimizer.steps=8"), device="cpu")
    assert plain.sha256 == result.sha256
