"""What the training jobs share: which system belongs to which job, and the way from a command line to a result."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayscale import cluster, launch
from rayscale.errors import ConfigError, RayscaleError
from rayscale.models.registry import find_system, model_names
from rayscale.training import ray
from rayscale.training.aplus import APlusConfig
from rayscale.training.config import load_config
from rayscale.training.loop import train
from rayscale.training.run import TrainResult, read_result

NETWORK_JOBS = [script for script in launch.FAMILIES if script != "jobs/train_aplus.py"]


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


@pytest.fixture
def job(checkout: Path) -> Callable[[str], SimpleNamespace]:
    return lambda script: SimpleNamespace(**runpy.run_path(str(checkout / script)))


def test_every_system_with_weights_has_one_job(checkout: Path) -> None:
    listed = [system for systems in launch.FAMILIES.values() for system in systems]
    assert sorted(listed) == sorted(
        name for name in model_names() if find_system(name).defaults["blocks"] or "srcnn" in name
    )
    for script in launch.FAMILIES:
        assert (checkout / script).is_file()


@pytest.mark.parametrize(
    ("arguments", "script"),
    [
        ([], "jobs/train_edsr.py"),
        (["--system", "vdsr", "--workers", "2"], "jobs/train_classic.py"),
        (["--fresh", "--set", "model.name=mdsr"], "jobs/train_mdsr.py"),
        (["--system=aplus", "--set", "model.atoms=4"], "jobs/train_aplus.py"),
        (["--set", "model.name=srgan", "--help"], "jobs/train_srgan.py"),
        (["--set", "model.name=aplus", "--set", "model.atoms=4"], "jobs/train_aplus.py"),
    ],
)
def test_the_job_is_picked_by_its_system(arguments: list[str], script: str) -> None:
    assert launch.pick_script(arguments) == script


def test_the_job_is_picked_by_a_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {name: meta-edsr}\n")
    assert launch.pick_script(["--config", str(tmp_path / "c.yaml")]) == "jobs/train_meta_srgan.py"
    (tmp_path / "a.yaml").write_text(APlusConfig().to_yaml())
    assert launch.pick_script(["--config", str(tmp_path / "a.yaml")]) == "jobs/train_aplus.py"
    assert APlusConfig.load(tmp_path / "a.yaml") == APlusConfig()
    with pytest.raises(ConfigError, match=r"no job that trains 'bicubic'"):
        launch.pick_script(["--system", "bicubic"])


@pytest.mark.parametrize("script", NETWORK_JOBS)
def test_a_job_lists_the_values_of_its_default_system(
    job: Callable[[str], Any], script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job(script).main(["--list-options", "--set", "recipe=short"]) == 0
    shown = capsys.readouterr().out
    config = load_config(None, ["recipe=short"], launch.FAMILIES[script][0])
    assert f"model.name={launch.FAMILIES[script][0]} " in shown
    assert f"optimizer.steps={config.optimizer.steps} " in shown
    assert f"data.patch={config.data.patch} " in shown


@pytest.mark.parametrize("script", launch.FAMILIES)
def test_a_wrong_key_in_a_list_of_options_is_wrong_usage(
    job: Callable[[str], Any], script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job(script).main(["--list-options", "--set", "foo.bar=1"]) == 2
    assert "unknown key 'foo'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "script", [*launch.FAMILIES, "benchmarks/warm_start_study.py", "tune/sweep_edsr.py"]
)
def test_every_command_in_the_usage_of_a_job_is_understood(
    job: Callable[[str], Any], script: str
) -> None:
    usage = job(script).__doc__
    assert not re.search(r"'[^'\n]*\$", usage), "a shell expands nothing in single quotes"
    commands = [line for line in usage.replace("\\\n", "").splitlines() if line.startswith("    ")]
    assert len(commands) > 1
    for command in commands:
        words = shlex.split(command)
        name, *arguments = words[words.index("python") + 1 :]
        known = job(name)
        options = known.parse(arguments)
        options.config = None  # the reader's own file
        if name == "jobs/train_aplus.py":
            APlusConfig.load(None, options.set)
        elif name in launch.FAMILIES:
            launch.configuration(options, name)
        else:
            known.plan(options)


def test_a_name_that_cannot_be_published_is_refused_before_the_training(
    job: Callable[[str], Any], plain_loop: list[Any],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for script in ("jobs/train_edsr.py", "jobs/train_aplus.py"):
        for options, told in (
            (["--register", "bicubic"], "another name, such as my-bicubic"),
            (["--register", "mine", "--alias", "latest"], "'latest' is not an alias"),
            (["--alias", "production"], "--alias production goes with --register NAME"),
        ):
            assert job(script).main(["--set", "data.uri=/nowhere", *options]) == 2
            assert told in capsys.readouterr().err
    assert not plain_loop


def test_a_system_of_another_job_is_refused_with_its_name(
    job: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert job("jobs/train_mdsr.py").main(["--set", "model.name=vdsr"]) == 2
    assert "jobs/train_mdsr.py trains mdsr-baseline, mdsr, not vdsr; use jobs/train_classic.py" in (
        capsys.readouterr().err
    )


SMALL = ["model.filters=8", "data.patch=10", "data.batch=2", "optimizer.steps=2", "run.name=tiny"]
RUNS = {
    "mdsr": ("jobs/train_mdsr.py", ["--set", "model.blocks=1"]),
    "srcnn": ("jobs/train_classic.py", ["--system", "srcnn"]),
    "srresnet": ("jobs/train_classic.py", ["--system", "srresnet", "--set", "model.blocks=1"]),
    "meta-edsr": ("jobs/train_meta_srgan.py", ["--system", "meta-edsr", "--set", "model.blocks=1"]),
}


@pytest.mark.usefixtures("plain_loop")
@pytest.mark.parametrize("name", RUNS)
def test_a_job_trains_its_system(
    job: Callable[[str], Any], dataset: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    script, arguments = RUNS[name]
    overrides = [word for key in [f"data.uri={dataset}", *SMALL] for word in ("--set", key)]
    code = job(script).main([*overrides, *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    result = read_result(str(dataset.parent / "runs" / "tiny"))
    assert result.complete
    assert result.model["system"].startswith(name)
    assert str(result.weights) in captured.out


@pytest.mark.usefixtures("plain_loop")
def test_a_registry_that_fails_does_not_hide_the_weights(
    job: Callable[[str], Any], dataset: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*_: object) -> str:
        raise RayscaleError("the registry is gone")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(launch, "register", fail)
    overrides = [word for key in [f"data.uri={dataset}", *SMALL] for word in ("--set", key)]
    arguments = [*overrides, "--set", "model.blocks=1", "--register", "x"]
    assert job("jobs/train_edsr.py").main(arguments) == 1
    captured = capsys.readouterr()
    assert "the registry is gone" in captured.err
    assert str(read_result(str(dataset.parent / "runs" / "tiny")).weights) in captured.out


def test_scores_of_one_and_of_several_scales() -> None:
    benchmark = {"uri": "/b", "digests": {"x3": "d"}}
    one = TrainResult("a", "u", True, 1, {"psnr": 30.0, "ssim": 0.9}, "p", benchmark)
    expected = {"protocol": "p", "benchmark": "d", "scale": 3, "psnr": 30.0, "ssim": 0.9}
    assert launch.scores_of(one) == {"validation": expected}
    figures = {"psnr_x2": 32.0, "ssim_x2": 0.9, "psnr_x4": 28.0, "ssim_x4": 0.8}
    means = {"psnr": 30.0, "ssim": 0.85}
    benchmark = {"uri": "/b", "digests": {"x2": "d", "x4": "e"}}
    several = TrainResult("a", "u", True, 1, figures | means, "p", benchmark)
    scores = launch.scores_of(several)
    assert list(scores) == ["validation-x2", "validation-x4"]
    expected = {"protocol": "p", "benchmark": "e", "scale": 4, "psnr": 28.0, "ssim": 0.8}
    assert scores["validation-x4"] == expected
    assert launch.scores_of(TrainResult("a", "u", True, 1, {})) == {}
