"""The demo as a new user runs it: from nothing to the table, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from rayscale import local

pytestmark = [pytest.mark.slow, pytest.mark.stack]

HEEDFUL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from rayscale.cli.app import main
main()
"""
"""``rayscale`` as a shell with job control runs it: what runs in the background of others ignores Ctrl-C."""


def _demo(home: Path, checkout: Path) -> subprocess.Popen[str]:
    variables = {
        k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MLFLOW_", "RAY_"))
    }
    return subprocess.Popen(
        [sys.executable, "-c", HEEDFUL, "demo", "--steps", "30"],
        env={**variables, "RAYSCALE_HOME": str(home)}, cwd=checkout, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _left(home: Path) -> list[psutil.Process]:
    """Processes of the stack of ``home``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAYSCALE_STACK") == str(home.resolve()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.timeout(600)
def test_a_first_run_shows_scores_and_picture_and_leaves_no_process(tmp_path, checkout):
    home = tmp_path / "home"
    demo = _demo(home, checkout)
    output, _ = demo.communicate(timeout=500)
    assert demo.returncode == 0, output
    scores = json.loads((home / "demo" / "scores.json").read_text())
    assert scores["bicubic"]["psnr"] == pytest.approx(32.52, abs=0.01)
    assert scores["edsr-baseline"]["psnr"] > scores["bicubic"]["psnr"] + 1
    assert scores["demo-edsr"]["psnr"] > 20
    assert "Before and after: file://" in output
    assert Image.open(home / "demo" / "before_after.png").width > 1000
    assert not _left(home)


@pytest.mark.timeout(300)
def test_ctrl_c_leaves_no_process(tmp_path, checkout):
    home = tmp_path / "home"
    demo = _demo(home, checkout)
    deadline = time.monotonic() + 200
    while not (home / "stack.json").is_file() or "mlflow" not in (home / "stack.json").read_text():
        assert demo.poll() is None, demo.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 130
    assert output.endswith("interrupted: the demo starts afresh when it is run again\n"), output
    assert not _left(home), output


@pytest.mark.timeout(300)
def test_on_a_stack_that_stays_its_job_ends_with_it(stack, stack_home, checkout):
    from ray.job_submission import JobStatus, JobSubmissionClient

    def jobs():
        return {each.submission_id: each.status for each in client.list_jobs()}

    client = JobSubmissionClient(stack.dashboard)
    before = jobs()
    demo = _demo(stack_home, checkout)
    deadline = time.monotonic() + 200
    while not (
        new := {name: status for name, status in jobs().items() if name not in before and name}
    ):
        assert demo.poll() is None, demo.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    demo.terminate()
    output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 143, output
    (name,) = new
    assert jobs()[name] == JobStatus.STOPPED
    assert all(service.running for service in local.status(stack_home))
