"""``python jobs/train_edsr.py`` as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayscale.training.run import read_result


def run_job(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The job in a bare environment: no package path, no cluster, no servers."""
    unset = ("PYTHONPATH", "RAY_ADDRESS", "RAYSCALE_DATASET", "MLFLOW_TRACKING_URI")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
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
        ((), "jobs/prepare_dataset.py SOURCE TARGET"),
        (("--set", "optimizer.learning_rate=1"), "did you mean optimizer."),
        (("--set", "data.uri=/nowhere", "--register", "x"), "MLFLOW_TRACKING_URI"),
        (("--nonsense",), "--list-options"),
    ],
)
def test_wrong_usage_is_explained_with_exit_code_2(
    checkout: Path, arguments: tuple[str, ...], taught: str
) -> None:
    done = run_job(checkout, *arguments)
    assert done.returncode == 2
    assert taught in done.stderr
    assert "Traceback" not in done.stderr


def test_every_option_is_listed(checkout: Path) -> None:
    done = run_job(checkout, "--list-options")
    assert done.returncode == 0
    assert "optimizer.decay_every=200000" in done.stdout
    assert "updates in all" in done.stdout


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
    result = read_result(str(tmp_path / "runs" / "first"))
    assert result.complete
    assert str(result.weights) in done.stdout
