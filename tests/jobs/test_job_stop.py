"""``ray job stop`` on jobs that train, search and prepare: each saves its work and says how to go on."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.plugins.signals import own_lines, stop_job

from rayscale.local import Addresses
from rayscale.storage import connect
from rayscale.training.checkpoint import Checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = ["model.blocks=1", "model.filters=4", "data.patch=12", "data.batch=2", "logging.every=5"]


def train(dataset: Path) -> tuple[list[str], str]:
    keys = [f"data.uri={dataset}", *SMALL, "optimizer.steps=1000000", "run.name=stopped"]
    return ["jobs/train_edsr.py", *(word for key in keys for word in ("--set", key))], "  loss "


def search(dataset: Path) -> tuple[list[str], str]:
    keys = [word for key in [f"data.uri={dataset}", *SMALL] for word in ("--set", key)]
    # A report every 400 steps, and none of the last before the job is stopped.
    return ["tune/sweep_edsr.py", "--samples", "1", "--steps", "3200", *keys], "  step "


def prepare(dataset: Path) -> tuple[list[str], str]:
    random = np.random.default_rng(0)
    source = dataset.parent / "images"
    source.mkdir()
    for index in range(60):
        pixels = random.integers(0, 256, (60, 72, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(source / f"{index}.png")
    sizes = ["--size", "48", "--step", "36", "--minimum", "24", "--images-per-shard", "1"]
    target = str(dataset.parent / "prepared")
    return ["jobs/prepare_dataset.py", str(source), target, *sizes, "--concurrency", "1"], "shards: 2/"  # fmt: skip


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (train, r"saved at step (\d+); run the same command again to resume"),
        (search, "every trial is saved; run the same command again to resume"),
        (prepare, "finished shards are kept; run the same command again to resume"),
    ],
)
def test_what_is_done_is_kept(
    stack: Addresses, dataset: Path, command: Callable[[Path], tuple[list[str], str]], told: str
) -> None:
    from ray.job_submission import JobSubmissionClient

    words, begun = command(dataset)
    client = JobSubmissionClient(stack.dashboard)
    job = client.submit_job(entrypoint=shlex.join(["python", *words]))
    end = time.monotonic() + 600
    while begun not in (said := client.get_job_logs(job)):
        assert not client.get_job_status(job).is_terminal(), said
        assert time.monotonic() < end, said
        time.sleep(0.2)
    said = stop_job(client, job, 300)
    own = own_lines(said.splitlines())
    last = re.fullmatch(f"interrupted: {told}", own[-1])
    assert last, said
    assert "Traceback" not in said
    assert "*** SIG" not in said
    if command is train:
        checkpoints = connect(dataset.parent / "runs/stopped/checkpoints")
        assert Checkpoints(checkpoints).load(int(last[1]))
