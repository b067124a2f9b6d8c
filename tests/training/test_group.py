"""Rank 0 alone, longer than any collective may take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
from datetime import timedelta
import torch, torch.distributed as dist
from rayscale.training.group import agree, alone

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=1)
)
for _ in range(2):
    with alone(rank, 2):
        if rank == 0:
            time.sleep(2.5)  # a validation
    assert agree(7 if rank == 0 else 0, 2, torch.device("cpu")) == 7
try:
    with alone(rank, 2):
        if rank == 0:
            raise ValueError("damaged image")
except ValueError:
    os._exit(3)  # not the way through destructors, on which the threads of gloo may abort
try:
    agree(0, 2, torch.device("cpu"))
except RuntimeError:
    os._exit(4)
"""


@pytest.mark.slow
def test_a_validation_longer_than_the_limit_of_collectives_hinders_nobody(
    tmp_path: Path, checkout: Path
) -> None:
    """And where it fails, the others do not wait for ever: their next collective does."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "platform")}
    workers = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), str(rank)], env=environment)
        for rank in range(2)
    ]
    try:
        assert [worker.wait(120) for worker in workers] == [3, 4]
    finally:
        for worker in workers:
            worker.kill()
