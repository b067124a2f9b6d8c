"""``rayscale train``: which system it trains, and the way from a command line to a result."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rayscale import cluster
from rayscale.cli import run
from rayscale.cli import train as command
from rayscale.cli.app import app
from rayscale.cli.train import configuration
from rayscale.errors import RayscaleError
from rayscale.models.systems import find_system, model_names
from rayscale.training import ray
from rayscale.training.aplus import APlusConfig
from rayscale.training.config import load_config
from rayscale.training.loop import train
from rayscale.training.recipes import trained_systems
from rayscale.training.run import TrainResult, read_result
from rayscale.tuning.sweep import plan

DOORS = ("jobs/train.py", "jobs/train_edsr.py", "jobs/train_mdsr.py", "jobs/prepare_dataset.py")


@pytest.fixture
def plain_loop(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The plain loop in place of Ray's; what the jobs gave to it."""
    calls: list[dict[str, Any]] = []

    def fit(config: Any, **options: Any) -> TrainResult:
        calls.append(options)
        return train(config, device="cpu")

    monkeypatch.setattr(cluster, "connect", lambda: "none")
    monkeypatch.setattr(ray, "fit", fit)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return calls


def words_of(checkout: Path, script: str) -> tuple[str, ...]:
    """The command of a door."""
    return tuple(runpy.run_path(str(checkout / script))["COMMAND"])


def test_every_system_with_weights_can_be_trained() -> None:
    assert sorted(trained_systems()) == sorted(
        name for name in model_names() if find_system(name).defaults["blocks"] or "srcnn" in name
    )


def test_the_help_shows_every_system() -> None:
    help_ = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "300"}).output
    for name in trained_systems():
        assert re.search(rf"\b{name}\b", help_), name


@pytest.mark.parametrize(
    ("script", "arguments", "system"),
    [
        ("jobs/train.py", [], "edsr-baseline"),
        ("jobs/train.py", ["--system", "vdsr", "--workers", "2"], "vdsr"),
        ("jobs/train.py", ["--system=aplus", "--set", "model.atoms=4"], "aplus"),
        ("jobs/train.py", ["--set", "model.name=aplus", "--set", "model.atoms=4"], "aplus"),
        ("jobs/train_edsr.py", [], "edsr-baseline"),
        ("jobs/train_edsr.py", ["--system", "edsr"], "edsr"),
        ("jobs/train_mdsr.py", [], "mdsr-baseline"),
        ("jobs/train_mdsr.py", ["--fresh", "--set", "model.name=mdsr"], "mdsr"),
        ("jobs/train_mdsr.py", ["--set", "model.name=mdsr", "--system", "srgan"], "srgan"),
    ],
)
def test_the_system_is_that_of_the_command_line_or_of_the_script(
    checkout: Path, capsys: pytest.CaptureFixture[str],
    script: str, arguments: list[str], system: str,
) -> None:  # fmt: skip
    assert run(*words_of(checkout, script), *arguments, "--list-options") == 0
    assert f"model.name={system} " in capsys.readouterr().out


def test_the_system_is_that_of_a_configuration_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("model: {name: meta-edsr}\n")
    (tmp_path / "a.yaml").write_text(APlusConfig().to_yaml())
    for name, system in (("c.yaml", "meta-edsr"), ("a.yaml", "aplus")):
        assert run("train", "--config", str(tmp_path / name), "--list-options") == 0
        assert f"model.name={system} " in capsys.readouterr().out
    assert APlusConfig.load(tmp_path / "a.yaml") == APlusConfig()
    assert run("train", "--system", "bicubic") == 2
    assert "bicubic has no weights to train; the systems are" in capsys.readouterr().err


@pytest.mark.parametrize("system", trained_systems())
def test_the_options_are_listed_with_the_values_of_a_system(
    system: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "--system", system, "--list-options", "--set", "recipe=short")
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert f"model.name={system} " in shown
    if system != "aplus":
        config = load_config(None, ["recipe=short"], system)
        assert f"optimizer.steps={config.optimizer.steps} " in shown
        assert f"data.patch={config.data.patch} " in shown
    assert run(*words, "--set", "foo.bar=1") == 2
    assert "unknown key 'foo'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "script",
    [
        *DOORS,
        "jobs/upscale_bucket.py",
        "jobs/evaluate.py",
        "benchmarks/warm_start_study.py",
        "tune/sweep_edsr.py",
    ],
)
def test_every_command_in_the_usage_of_a_script_is_understood(checkout: Path, script: str) -> None:
    usage = runpy.run_path(str(checkout / script))["__doc__"]
    assert not re.search(r"'[^'\n]*\$", usage), "a shell expands nothing in single quotes"
    commands = [line for line in usage.replace("\\\n", "").splitlines() if line.startswith("    ")]
    assert len(commands) > 1
    for line in commands:
        words = shlex.split(line)
        name, *arguments = words[words.index("python") + 1 :]
        door = runpy.run_path(str(checkout / name))
        if "COMMAND" not in door:
            options = door["parse"](arguments)
            options.config = None  # the reader's own file
            door["plan"](options)
            continue
        command, *own = door["COMMAND"]
        known = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
        given = known.make_context(command, [*own, *arguments]).params
        if command == "sweep":
            plan(None, given["overrides"])
        if command == "train":
            configuration(
                None, *(given[key] for key in ("overrides", "system", "workers", "default_system"))
            )


def test_a_name_that_cannot_be_published_is_refused_before_the_training(
    plain_loop: list[Any],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for system in ("edsr", "aplus"):
        for options, told in (
            (["--register", "bicubic"], "another name, such as my-bicubic"),
            (["--register", "mine", "--alias", "latest"], "'latest' is not an alias"),
            (["--alias", "production"], "--alias production needs --register NAME"),
        ):
            words = ("train", "--system", system, "--set", "data.uri=/nowhere")
            assert run(*words, *options) == 2
            assert told in capsys.readouterr().err
    assert not plain_loop


SMALL = ["model.filters=8", "data.patch=10", "data.batch=2", "optimizer.steps=2", "run.name=tiny"]
RUNS = {
    "edsr-baseline": ["--set", "model.blocks=1"],
    "mdsr": ["--set", "model.blocks=1"],
    "srcnn": [],
    "srresnet": ["--set", "model.blocks=1"],
    "meta-edsr": ["--set", "model.blocks=1"],
}


@pytest.mark.usefixtures("plain_loop")
@pytest.mark.parametrize("system", RUNS)
def test_the_command_trains_a_system(
    dataset: Path, capsys: pytest.CaptureFixture[str], system: str
) -> None:
    overrides = [word for key in [f"data.uri={dataset}", *SMALL] for word in ("--set", key)]
    code = run("train", "--system", system, *overrides, *RUNS[system])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    result = read_result(str(dataset.parent / "runs" / "tiny"))
    assert result.complete
    assert result.model["system"] == system
    assert str(result.weights) in captured.out


@pytest.mark.usefixtures("plain_loop")
def test_a_registry_that_fails_does_not_hide_the_weights(
    dataset: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*_: object) -> str:
        raise RayscaleError("the registry is gone")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(command, "publish", fail)
    overrides = [word for key in [f"data.uri={dataset}", *SMALL] for word in ("--set", key)]
    arguments = [*overrides, "--set", "model.blocks=1", "--register", "x"]
    assert run("train", *arguments) == 1
    captured = capsys.readouterr()
    assert "the registry is gone" in captured.err
    assert str(read_result(str(dataset.parent / "runs" / "tiny")).weights) in captured.out


def test_scores_of_one_and_of_several_scales() -> None:
    benchmark = {"uri": "/b", "digests": {"x3": "d"}}
    one = TrainResult("a", "u", True, 1, {"psnr": 30.0, "ssim": 0.9}, "p", benchmark)
    expected = {"protocol": "p", "benchmark": "d", "scale": 3, "psnr": 30.0, "ssim": 0.9}
    assert command.scores_of(one) == {"validation": expected}
    figures = {"psnr_x2": 32.0, "ssim_x2": 0.9, "psnr_x4": 28.0, "ssim_x4": 0.8}
    means = {"psnr": 30.0, "ssim": 0.85}
    benchmark = {"uri": "/b", "digests": {"x2": "d", "x4": "e"}}
    several = TrainResult("a", "u", True, 1, figures | means, "p", benchmark)
    scores = command.scores_of(several)
    assert list(scores) == ["validation-x2", "validation-x4"]
    expected = {"protocol": "p", "benchmark": "e", "scale": 4, "psnr": 28.0, "ssim": 0.8}
    assert scores["validation-x4"] == expected
    assert command.scores_of(TrainResult("a", "u", True, 1, {})) == {}
