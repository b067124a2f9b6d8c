"""``python jobs/train_edsr.py`` as a user runs it."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.plugins.signals import interrupt, own_lines, start

from rayscale.cli import run
from rayscale.storage import connect
from rayscale.training.checkpoint import Checkpoints
from rayscale.training.run import read_result

COMMAND = ("train", "--default-system", "edsr-baseline")  # of the script
UNSET = ("PYTHONPATH", "RAY_ADDRESS", "RAYSCALE_DATASET", "MLFLOW_TRACKING_URI")


def run_job(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The job in a bare environment: no package path, no cluster, no servers."""
    environment = {key: value for key, value in os.environ.items() if key not in UNSET}
    return subprocess.run(
        [sys.executable, str(checkout / "jobs" / "train_edsr.py"), *arguments],
        env=environment | variables,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "taught"),
    [
        ((), "rayscale prepare SOURCE TARGET"),
        (("--set", "optimizer.learning_rate=1"), "did you mean optimizer."),
        (("--set", "data.uri=/nowhere", "--register", "x"), "MLFLOW_TRACKING_URI"),
        (("--nonsense",), "rayscale train -h"),
    ],
)
def test_wrong_usage_is_explained_with_exit_code_2(
    arguments: tuple[str, ...], taught: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    assert run(*COMMAND, *arguments) == 2
    assert taught in capsys.readouterr().err


def test_the_script_alone_says_what_it_lacks(checkout: Path) -> None:
    done = run_job(checkout)
    assert done.returncode == 2
    assert "rayscale prepare SOURCE TARGET" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_option_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*COMMAND, "--list-options") == 0
    shown = capsys.readouterr().out
    assert "optimizer.decay_every=200000" in shown
    assert "updates in all" in shown


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_bare_call_trains_on_the_dataset_of_the_environment(
    checkout: Path, dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(
        "run: {name: first}\nmodel: {blocks: 1, filters: 4}\ndata: {patch: 12, batch: 2}\n"
        "optimizer: {steps: 3}\nlogging: {every: 1}\n"
    )
    variables = {
        "RAYSCALE_DATASET": str(dataset),
        "RAYSCALE_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = run_job(checkout, "--config", str(tmp_path / "small.yaml"), **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "decay_every: 200000" in done.stdout, "the configuration is printed"
    assert "step 3/3" in done.stdout, "progress is printed"
    assert "PlacementGroupCleaner" not in done.stdout + done.stderr, "Ray Train has nothing to say"
    result = read_result(str(tmp_path / "runs" / "first"))
    assert result.complete
    assert str(result.weights) in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_signal_leaves_a_checkpoint_and_no_process(
    checkout: Path, dataset: Path, tmp_path: Path
) -> None:
    """Ctrl-C reaches Ray's processes too, as in a terminal; the run that SIGTERM ends goes on where Ctrl-C left it."""
    command = [sys.executable, str(checkout / "jobs" / "train_edsr.py")]
    keys = [f"data.uri={dataset}", "run.name=a", "model.blocks=1", "model.filters=4"]
    keys += ["data.patch=12", "data.batch=2", "optimizer.steps=1000000", "logging.every=5"]
    command += [word for key in keys for word in ("--set", key)]
    cache = str(tmp_path / "cache")
    steps = []
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with start(command, RAYSCALE_CACHE_DIR=cache) as process:
            assert process.stdout is not None
            said = list(itertools.takewhile(lambda line: "  loss " not in line, process.stdout))
            rest = interrupt(process, number, 120)
        own = own_lines([*said, *rest.splitlines()])
        assert process.returncode == code, own
        told = re.fullmatch(
            r"interrupted: saved at step (\d+); run the same command again to resume", own[-1]
        )
        assert told, own
        assert "*** SIG" not in rest
        assert not any("Traceback" in line for line in own)
        steps.append(int(told[1]))
        assert Checkpoints(connect(dataset.parent / "runs/a/checkpoints")).load(steps[-1])
    assert any(f"from step {steps[0]}" in line for line in said)
    assert steps[1] > steps[0]
