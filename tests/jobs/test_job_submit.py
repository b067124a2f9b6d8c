"""``ray job submit --working-dir .``: the scripts are programs that a cluster runs as they are, its packaging keeps the run bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rayscale.local import Addresses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_script_is_submitted_by_its_name(checkout: Path, stack: Addresses) -> None:
    """It runs as far as it can without a dataset, which is all the way through the package."""
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "job", "submit", "--address", stack.dashboard, "--working-dir", "."]
    done = subprocess.run(
        [*command, "jobs/train_edsr.py"],
        cwd=checkout, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 1  # of Ray, for any failure; that of the job is 2
    said = done.stdout + done.stderr
    assert "error: there is no dataset to train on" in said
    assert "exit code 2" in said
