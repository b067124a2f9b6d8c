"""What a training prints on the console of its caller: the lines of its workers, and nothing else that looks like an error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rayscale.cluster.console import hush
from rayscale.local import Addresses


@pytest.mark.timeout(600)
def test_a_training_prints_its_own_lines_alone(
    stack: Addresses, checkout: Path, dataset: Path
) -> None:
    keys = [
        f"data.uri={dataset}",
        "model.blocks=1",
        "model.filters=4",
        "data.patch=12",
        "data.batch=2",
    ]
    keys += ["optimizer.steps=6", "logging.every=1", "logging.profile=1"]
    command = [sys.executable, str(checkout / "jobs/train_edsr.py")]
    command += [word for key in keys for word in ("--set", key)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines() + done.stderr.splitlines()
    assert not [line for line in lines if "PreemptionWatcher" in line]
    of_workers = [line for line in lines if "(RayTrainWorker" in line]
    others = [line for line in of_workers if not re.search(r"step \d/6  loss", line)]
    assert not others, "\n".join(others)
    assert [int(m[1]) for line in lines if (m := re.search(r"step (\d)/6", line))] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_workers_that_ray_ends_itself_are_no_news(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a batch is interrupted, Ray tells of retries that nobody will make; other errors are shown."""
    from ray._private import worker

    hush()
    hush()
    killed = (
        "Task MapWorker(MapBatches(UpscaleActor)).submit failed. There are 2 retries remaining. "
    )
    killed += "Error: The actor is dead because it was killed by `ray.kill`."
    for message in (killed, "A worker died or was killed while executing a task: out of memory"):
        data = {"lines": [message], "pid": "raylet", "is_err": False}
        worker.print_to_stdstream(data, ignore_prefix=False)
    (shown,) = capsys.readouterr().out.splitlines()
    assert "out of memory" in shown
