"""``ray job submit --working-dir .``: the scripts are programs that a cluster runs as they are, its packaging keeps the run bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rayscale.local import Addresses
from rayscale.training.run import read_result

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def submit(checkout: Path, stack: Addresses, *entrypoint: str) -> subprocess.CompletedProcess[str]:
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "job", "submit", "--address", stack.dashboard, "--working-dir", "."]
    return subprocess.run(
        [*command, *entrypoint],
        cwd=checkout, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


def test_a_script_is_submitted_by_its_name(checkout: Path, stack: Addresses, dataset: Path) -> None:
    bare = submit(checkout, stack, "jobs/train_edsr.py")
    assert bare.returncode == 1  # of Ray, for any failure; the job's own is 2
    said = bare.stdout + bare.stderr
    assert "error: there is no dataset to train on" in said
    assert "Traceback" not in said.split("error: there is no dataset")[0]

    keys = [f"data.uri={dataset}", "run.name=submitted", "model.blocks=1", "model.filters=4"]
    keys += ["data.patch=12", "data.batch=2", "optimizer.steps=2"]
    words = [word for key in keys for word in ("--set", key)]
    done = submit(checkout, stack, "--", "jobs/train_edsr.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_result(str(dataset.parent / "runs/submitted")).complete
