"""``rayscale sweep`` and its script ``tune/sweep_edsr.py``: what it decides before it runs, and one small sweep on a real Ray."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import PIL.Image
import pytest
import torch
from tests.plugins.signals import interrupt, own_lines, start

from rayscale import registry
from rayscale.cli import run
from rayscale.errors import ConfigError
from rayscale.evaluation import evaluate, read_pairs
from rayscale.inference import Upscaler
from rayscale.local import Addresses
from rayscale.models.weights import load_model
from rayscale.options import Options
from rayscale.resampling import degrade
from rayscale.storage import connect
from rayscale.training.checkpoint import Checkpoints
from rayscale.training.config import load_config
from rayscale.training.loop import train
from rayscale.training.run import lease_of, read_result
from rayscale.tuning import search
from rayscale.tuning.search import Tracker
from rayscale.tuning.sweep import best_config, plan, rank, room
from rayscale.tuning.trials import Journal, Trial


def main(arguments: list[str]) -> int:
    """The command, in this process."""
    return run("sweep", *arguments)


def test_the_plan_keeps_the_recipe_and_shortens_the_trials() -> None:
    sweep = plan(None, ["data.uri=s3://b/d"], steps=400)
    assert sweep.base.optimizer.steps == 300_000
    assert sweep.trial.optimizer.steps == 400
    assert (sweep.metric, sweep.mode) == ("loss", "min")
    again = plan(None, ["data.uri=s3://b/d"], steps=400, samples=99)
    assert again.name == sweep.name
    other = plan(None, ["data.uri=s3://b/d"], steps=400, seed=2)
    assert other.name != sweep.name
    best = best_config(sweep, {"values": {"optimizer.lr": 5e-4, "model.residual_scaling": 0.2}})
    assert (best.optimizer.lr, best.model.residual_scaling) == (5e-4, 0.2)
    assert best.optimizer.steps == 300_000
    assert best.run.name is None


def test_a_sweep_without_its_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr("rayscale.cluster.connect", lambda **_: "embedded")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    monkeypatch.setattr("rayscale.training.ray.make_switch", lambda: pytest.fail("it began"))
    sweep = plan(None, ["data.uri=s3://b/d", "workers.gpu=true"], steps=400)
    with pytest.raises(ConfigError, match=r"1 GPU (is|are) needed.*change workers.count"):
        search.search(sweep)


@pytest.mark.parametrize(
    ("cluster", "workers", "concurrent", "expected"),
    [
        ({"CPU": 2.0}, 1, None, (1, 1.0, 2)),
        ({"CPU": 2.0}, 2, None, (1, 0.95, 1)),
        ({"CPU": 2.0}, 1, 2, (2, 0.9, 1)),
        ({"CPU": 16.0}, 1, None, (8, 1.0, 2)),
        ({"CPU": 16.0, "GPU": 4.0}, 2, None, (2, 1.0, 4)),
        ({"CPU": 160.0}, 1, None, (8, 1.0, 20)),
    ],
)
def test_trials_and_their_workers_fit_together(
    cluster: dict[str, float],
    workers: int,
    concurrent: int | None,
    expected: tuple[int, float, int],
) -> None:
    """Otherwise every trial would wait for workers that no trial leaves room for."""
    sweep = plan(None, ["data.uri=s3://b/d", f"workers.count={workers}"])
    sweep = type(sweep)(**{**vars(sweep), "concurrent": concurrent})
    trials, shares = room(sweep, cluster)
    cpus, threads = shares["workers.cpus"], shares["workers.threads"]
    assert (trials, cpus, threads) == (expected[0], pytest.approx(expected[1]), expected[2])
    assert trials * (0.1 + workers * cpus) <= cluster["CPU"] + 1e-9


def test_too_many_trials_at_a_time_are_refused() -> None:
    sweep = plan(None, ["data.uri=s3://b/d"], concurrent=40)
    with pytest.raises(ConfigError, match="run fewer"):
        room(sweep, {"CPU": 2.0})


def test_a_second_start_of_a_sweep_is_refused(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--set", f"data.uri={dataset}"]
    sweep = plan(None, arguments[1::2]).identified()
    with lease_of(f"{sweep.base.run.uri}/{sweep.name}"):
        assert main(arguments) == 1
    assert f"process {os.getpid()}" in capsys.readouterr().err


def make_row(error: str = "", **figures: float) -> dict[str, Any]:
    """A row of the result of a sweep over the space ``edsr``."""
    values = {"optimizer.lr": 1e-3, "model.residual_scaling": 0.1}
    state = "failed" if error else "complete"
    return {"values": values, "error": error, "state": state, "run": "a", "step": 8, **figures}


def make_benchmark(folder: Path, side: int) -> str:
    """A benchmark of one image of a dataset's source."""
    pixels = np.asarray(PIL.Image.open(folder / "source" / "0.png"))[:side, :side]
    (folder / "set").mkdir(exist_ok=True)
    for kind, image in (("HR", pixels), ("LR", degrade(pixels, 2))):
        PIL.Image.fromarray(image).save(folder / "set" / f"a_{kind}.png")
    return str(folder / "set")


def test_trials_that_were_scored_on_different_images_are_not_compared(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best = dataset.parent / "best.yaml"
    uri = make_benchmark(dataset.parent, 48)
    row = make_row(psnr=30.0)
    arguments = ["--set", f"data.uri={dataset}", "--set", f"validation.uri={uri}"]
    for side, code in ((48, 0), (96, 1)):
        best.unlink(missing_ok=True)
        monkeypatch.setattr(
            search,
            "search",
            lambda _, side=side: make_benchmark(dataset.parent, side) and [row],
        )
        assert main([*arguments, "--output", str(best)]) == code
        assert best.exists() == (code == 0)
    assert f"the images at {uri} changed during the sweep" in capsys.readouterr().err


@pytest.mark.parametrize(("errors", "code"), [("", 0), ("x", 1), (" x", 3)])
def test_the_code_says_how_many_trials_failed(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, errors: str, code: int
) -> None:
    rows = [make_row(error.strip(), loss=3.0) for error in errors or " "]
    monkeypatch.setattr(search, "search", lambda sweep: rows)
    best = dataset.parent / "best.yaml"
    assert main(["--set", f"data.uri={dataset}", "--output", str(best)]) == code
    assert best.exists() == (code != 1)


def test_wrong_usage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYSCALE_DATASET", raising=False)
    assert main([]) == 2
    assert "data.uri" in capsys.readouterr().err


def make_trial(lr: float, *reports: dict[str, float], error: str = "", state: Any = None) -> Trial:
    """A trial of one value."""
    state = state or ("failed" if error else "complete")
    trial = Trial(int(lr), f"run-{lr:g}", {"optimizer.lr": lr}, 8, state, error=error)
    trial.reports = list(reports)
    return trial


@pytest.mark.parametrize(
    ("uri", "metric", "figures"),
    [("s3://b/v", "psnr", (33.0, 34.0, 35.0)), ("", "loss", (3, 2, 1))],
)
def test_a_trial_that_failed_is_never_the_best(
    uri: str, metric: str, figures: tuple[float, ...]
) -> None:
    overrides = ["data.uri=s3://b/d"]
    sweep = plan(None, [*overrides, f"validation.uri={uri}"] if uri else overrides)
    assert sweep.metric == metric
    fair, good, better = ({"step": 8, metric: figure} for figure in figures)
    trials = [
        make_trial(1.0, better, error="x\nthe loss is not finite at step 9"),
        make_trial(2.0, error="the worker died"),
        make_trial(3.0, fair),
        make_trial(4.0, better | {metric: math.nan}),
        make_trial(5.0),
        make_trial(6.0, good),
        make_trial(7.0, better | {"step": 2}, state="stopped"),
    ]
    for order in (trials, trials[::-1]):
        rows = rank(sweep, order)
        assert [row["values"]["optimizer.lr"] for row in rows[:3]] == [6.0, 3.0, 7.0]
        assert [row["error"] == "" for row in rows] == [True, True, True] + [False] * 4
    errors = {row["values"]["optimizer.lr"]: row["error"] for row in rows}
    assert errors[1.0] == "the loss is not finite at step 9"
    assert errors[4.0] == f"no finite {metric}: nan"
    assert errors[5.0] == f"no finite {metric}: it was not measured"


class Parent:
    """The sweep's run in MLflow."""

    run_id = "a"

    def __init__(self) -> None:
        self.told: list[Any] = []

    def flush(self) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.told.append((metrics, step))

    def log_params(self, params: dict[str, Any]) -> None:
        self.told.append(params)


def test_the_parent_run_gets_the_best_there_is() -> None:
    parent = Parent()
    sweep = plan(None, ["data.uri=s3://b/d"])
    tracker = Tracker(sweep, parent)
    parent.told.clear()
    failed = make_trial(1.0, {"step": 8, "loss": 1.0}, error="diverged")
    tracker.log_best(rank(sweep, [failed])[0])
    assert parent.told == []
    tracker.log_best(rank(sweep, [failed, make_trial(2.0, {"step": 8, "loss": 4.0})])[0])
    assert parent.told[:2] == [({"best/loss": 4.0}, 8), {"best.optimizer.lr": 2.0}]


def small_sweep(dataset: Path, *arguments: str) -> list[str]:
    """The arguments of a sweep of two small networks."""
    small = [f"data.uri={dataset}", "model.blocks=1", "model.filters=4"]
    small += ["data.patch=12", "data.batch=2", "optimizer.steps=5"]
    output = str(dataset.parent / "best.yaml")
    keys = [word for key in small for word in ("--set", key)]
    return ["--samples", "2", "--output", output, *arguments, *keys]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_signal_saves_the_trials(checkout: Path, dataset: Path) -> None:
    """The one way through Tune, Ray Train and their signals is the real one; what SIGTERM ends goes on where Ctrl-C left it.

    Ctrl-C reaches Ray's processes too, as in a terminal.
    """
    script = str(checkout / "tune" / "sweep_edsr.py")
    command = [sys.executable, script, *small_sweep(dataset, "--steps", "8000")]
    cache = str(dataset.parent / "cache")
    saved: list[int] = []
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with start(command, RAYSCALE_CACHE_DIR=cache) as process:
            assert process.stdout is not None
            said = list(
                itertools.takewhile(lambda line: not line.startswith("tracking"), process.stdout)
            )
            while (run := newest(dataset)) is None or not set(run.steps()) - set(saved):
                assert process.poll() is None, process.communicate()
                time.sleep(0.2)
            rest = interrupt(process, number, 200)
        assert process.returncode == code, [*said, rest]
        assert own_lines(rest.splitlines())[-1] == (
            "interrupted: every trial is saved; run the same command again to resume"
        )
        saved.append(run.steps()[-1])
        assert saved[-1] % 1000 != 0, "it was saved when the signal came"
        assert run.load(saved[-1])
    assert saved[0] < saved[1]


def newest(dataset: Path) -> Checkpoints | None:
    """The checkpoints of the one trial that has any."""
    found = {path.parents[1] for path in dataset.parent.glob("runs/*/checkpoints/*/COMMITTED")}
    return Checkpoints(connect(found.pop())) if found else None


@pytest.mark.timeout(900)
def test_a_sweep_writes_a_configuration_that_trains(
    stack: Addresses, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = small_sweep(dataset, "--steps", "2")
    assert main(arguments) == 0
    assert "complete" in capsys.readouterr().out
    # The same trials, now with images to score them on: nothing is trained, and PSNR decides.
    weights = {path: path.read_bytes() for path in (tmp_path / "runs").glob("*/model.safetensors")}
    assert len(weights) == 2
    uri = make_benchmark(tmp_path, 48)
    assert main([*arguments, "--set", f"validation.uri={uri}"]) == 0
    results = [read_result(str(path.parent)) for path in weights]
    for result in results:
        model = load_model(Path(str(result.weights)))
        report = evaluate(Upscaler(model, Options(scale=2), calibrate=False), read_pairs(uri, 2))
        assert result.metrics["psnr"] == pytest.approx(report.psnr, abs=0.05)
    assert weights == {path: path.read_bytes() for path in weights}
    winner = max(results, key=lambda result: result.metrics["psnr"])
    best = load_config(tmp_path / "best.yaml")
    assert best.optimizer.steps == 5
    assert best.model.residual_scaling in (0.1, 0.2, 0.5, 1.0)
    assert best.model.residual_scaling == winner.model["residual_scaling"]
    result = train(best, device="cpu")
    assert result.complete
    assert result.model["residual_scaling"] == best.model.residual_scaling


@pytest.mark.timeout(900)
def test_a_population_on_a_small_cluster_publishes_its_best(
    stack: Addresses, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two CPUs, and members of two workers: one at a time, while none waits for the other."""
    arguments = ["--steps", "4", "--scheduler", "pbt", "--generations", "2", "--space", "lr"]
    arguments += ["--set", "workers.count=2", "--register-best", "population", "--alias", "best"]
    assert main(small_sweep(dataset, *arguments)) == 0, capsys.readouterr().err
    assert "registered  population" in capsys.readouterr().out
    (records,) = {path.parent for path in dataset.parent.glob("runs/*/trials/*.json")}
    journal = Journal(connect(str(records.parent)), {})
    journal.load()
    before, after = journal.listed()[:2], journal.listed()[2:]
    assert [(trial.state, trial.steps) for trial in before] == [("complete", 2)] * 2
    assert [(trial.state, trial.steps) for trial in after] == [("complete", 4)] * 2
    leader = min(before, key=lambda trial: trial.reports[-1]["loss"])
    assert {trial.parent for trial in after} == {(leader.name, 2)}
    follower, kept = sorted(after, key=lambda trial: trial.values == leader.values)
    assert kept.values == leader.values
    change = follower.values["optimizer.lr"] / leader.values["optimizer.lr"]
    assert change == pytest.approx(0.8) or change == pytest.approx(1.2)
    runs = dataset.parent / "runs"
    truth = dataset.parent / "truth"
    for (
        trial
    ) in after:  # one process that goes on from the leader's weights and moments comes to the same
        shutil.copytree(runs / leader.name / "checkpoints", truth / trial.name / "checkpoints")
        config = load_config(runs / trial.name / "config.yaml", [f"run.uri={truth}"])
        alone = load_model(Path(str(train(config, device="cpu").weights))).state_dict()
        for name, value in load_model(runs / trial.name / "model.safetensors").state_dict().items():
            assert torch.allclose(value, alone[name], atol=1e-4), name

    best = min(after, key=lambda trial: trial.reports[-1]["loss"])
    version = registry.resolve("population@best")
    assert version.digest == read_result(str(runs / best.name)).sha256
    client = mlflow.MlflowClient()
    source = client.get_run(client.get_model_version("population", str(version.version)).run_id)
    assert source.info.run_name == best.name
    parent = client.get_run(source.data.tags["mlflow.parentRunId"])
    assert parent.data.params["best.run"] == best.name
