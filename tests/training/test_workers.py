"""How many workers, and what each takes of a cluster that changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayscale.cli.train import configuration
from rayscale.errors import ConfigError
from rayscale.training.config import TrainConfig
from rayscale.training.loop import train
from rayscale.training.ray import _resources
from rayscale.tuning import tune
from rayscale.tuning.sweep import plan

Make = Callable[..., TrainConfig]


def test_the_command_line_takes_a_range() -> None:
    workers = configuration(None, [], workers="1:8").workers
    assert (workers.minimum, workers.count) == (1, 8)
    workers = configuration(None, [], workers="4").workers
    assert (workers.minimum, workers.count) == (None, 4)
    for wrong in ("1:", ":8", "0", "a", "1:2:3", "-1"):
        with pytest.raises(ConfigError, match=f"--workers {wrong}: give a number"):
            configuration(None, [], workers=wrong)
    with pytest.raises(ConfigError, match=r"minimum 9 is above workers\.count 8"):
        configuration(None, [], workers="9:8")


def test_workers_that_come_and_go_take_whole_cpus(make_config: Make) -> None:
    """On a lone machine too: shares of a CPU would let all start there and none anywhere else."""
    one = [{"Alive": True, "Resources": {"CPU": 2.0}}]
    config = make_config("workers.count=4", "workers.minimum=1")
    assert _resources(config, False, one) == {"CPU": 1.0}


@pytest.mark.slow
def test_whole_runs_of_any_number_of_workers_have_one_curve(
    make_config: Make, small_world: Path, tmp_path: Path, checkout: Path
) -> None:
    """Each step learns from the same patches; validation beside the training scores the same, and reports in its order."""
    options = [f"validation.uri={small_world / 'validation'}", "validation.every=2", "data.batch=6"]
    options += ["logging.every=1", "optimizer.eps=1e-2", "optimizer.ema=0.9", "checkpoint.every=3"]
    groups = {"two": (2, "fsdp"), "three": (3, "ddp"), "five": (5, "ddp")}
    for name, (count, strategy) in groups.items():
        parts = (f"workers.count={count}", f"workers.strategy={strategy}", f"run.name={name}")
        (tmp_path / f"{name}.yaml").write_text(make_config(*options, *parts).to_yaml())
    script = [sys.executable, str(checkout / "tests/training/whole.py"), str(tmp_path)]
    path = f"{checkout / 'platform'}:{checkout}"
    subprocess.run(script, env=os.environ | {"PYTHONPATH": path}, check=True, timeout=400)
    reports: list[dict[str, float]] = []
    alone = train(make_config(*options, "run.name=one"), device="cpu", report=reports.append)
    assert [report["step"] for report in reports] == [2, 4, 6]
    for name in groups:
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["best"] == alone.best["step"]
        for ours, theirs in zip(alone.history, found["history"], strict=True):
            assert theirs == pytest.approx(ours, abs=2e-3), name
        for ours, theirs in zip(reports, found["reports"], strict=True):
            assert theirs["step"] == ours["step"]
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=2e-5), name


def test_what_ray_keeps_of_trials_lies_where_later_hosts_find_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class AskedError(Exception):
        pass

    def scratch(uri: str, *, grows: bool = False) -> str:
        raise AskedError(grows)

    monkeypatch.setattr("rayscale.cluster.scratch", scratch)
    course: Any = None
    for setting, grows in (("count=2", False), ("wait=true", True), ("minimum=1", True)):
        sweep = plan(None, ["data.uri=s3://b/d", f"workers.{setting}"], steps=400)
        with pytest.raises(AskedError, match=str(grows)):
            tune.fit_trials(sweep, course, lambda trial: None, 1, concurrent=1, rungs=None)
