"""Overhead of the platform: steps/s of the Ray Train job that reads shards from S3, over steps/s of a plain loop.

    make up && source .rayscale/stack.env
    python benchmarks/train_overhead.py s3://rayscale/dataset                  # EDSR-baseline x2, batch 16, LR patch 48
    python benchmarks/train_overhead.py s3://rayscale/dataset --steps 30 --rounds 2
    python benchmarks/train_overhead.py s3://rayscale/dataset --workers 2      # two workers of one thread over one

The baseline is written here in a few lines of PyTorch: the same network, precision and optimizer, on batches that
lie in memory as tensors. Rounds alternate, baseline first; a ratio of 1 means that Ray, S3, decoding, sampling
and the guards of the loop cost nothing. The first steps of a process, which are slower, are not timed. With ``--workers N``, the ratio is that of N workers of one thread to one such
worker, for the same batches; beside it is what the machine makes of N cores: as many plain loops that share nothing,
over one. Prints one line per round and the
median ratio.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import l1_loss

from rayscale import cluster
from rayscale.data import Dataset, PatchStream
from rayscale.inference.device import pick_device, pick_dtype
from rayscale.models.systems import create_model
from rayscale.training.config import TrainConfig, load_config
from rayscale.training.ray import fit

BATCHES_IN_MEMORY = 32
WARM_UP = 10


def plain(dataset: str, steps: int) -> float:
    """Steps/s of a plain loop over batches in memory."""
    device = pick_device()
    stream = PatchStream(Dataset(dataset, 2), patch=48, batch=16)
    batches = [stream.batch(step) for step in range(min(steps, BATCHES_IN_MEMORY))]
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2).to(device).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    dtype = pick_dtype("auto", device, 8)
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            start = time.perf_counter()
        lr, hr = (
            x.to(device).float().contiguous(memory_format=torch.channels_last)
            for x in batches[step % len(batches)]
        )
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            sr = model(lr)
        loss = l1_loss(sr.float(), hr)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - start)


class Clock:
    """A metric logger, in rank 0's process: when a step was reached, and what share of the time went into waiting for data."""

    run_id = "clock"

    def __init__(self, path: Path, config: TrainConfig) -> None:
        self._path = path

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        with self._path.open("a") as file:
            file.write(f"{step} {time.perf_counter()} {metrics['data_wait']}\n")

    def log_image(self, name: str, pixels: Any, step: int) -> None: ...

    def log_params(self, params: Any) -> None: ...

    def close(self) -> None: ...


def platform(dataset: str, steps: int, *settings: str) -> tuple[float, float]:
    """Steps/s of the Ray Train job, and the share of its time spent waiting for data."""
    keys = [f"data.uri={dataset}", "run.name=benchmark-overhead", f"logging.every={WARM_UP}"]
    config = load_config(None, [*keys, f"optimizer.steps={WARM_UP + steps}", *settings])
    with tempfile.TemporaryDirectory(prefix="train-overhead-") as folder:
        log = Path(folder, "log")
        fit(config, fresh=True, verbose=False, logger_factory=functools.partial(Clock, log))
        told = [[float(word) for word in line.split()] for line in log.read_text().splitlines()]
    (first, start, _), *rest = told
    last, end, _ = rest[-1]
    return (last - first) / (end - start), statistics.fmean(wait for *_, wait in rest)


def overhead(dataset: str, steps: int) -> tuple[float, str]:
    """The ratio of Ray Train from S3 to the plain loop, and the figures in words."""
    base = plain(dataset, steps)
    ours, wait = platform(dataset, steps)
    return ours / base, (
        f"plain {base:.3f} steps/s, Ray Train from S3 {ours:.3f} steps/s "
        f"({100 * wait:.1f} % waiting for data)"
    )


def speedup(dataset: str, steps: int, workers: int) -> tuple[float, str]:
    """The ratio of so many workers of one thread to one, and the figures in words."""
    settings = ("workers.threads=1", "workers.cpus=0.5")
    one, many = (platform(dataset, steps, *settings, f"workers.count={n}")[0] for n in (1, workers))
    machine = sum(rates(dataset, steps, workers)) / sum(rates(dataset, steps, 1))
    return many / one, (
        f"1 worker {one:.3f} steps/s, {workers} workers {many:.3f} steps/s "
        f"({workers} plain loops that share nothing: {machine:.3f} of one)"
    )


def rates(dataset: str, steps: int, processes: int) -> list[float]:
    """Steps/s of so many plain loops of one thread side by side, each in a process of its own."""
    command = [sys.executable, __file__, dataset, "--steps", str(steps), "--plain"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    return [float(process.communicate()[0]) for process in running]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="a dataset made by jobs/prepare_dataset.py, on S3")
    parser.add_argument("--steps", type=int, default=60, help="steps of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="compare so many workers with one")
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        print(plain(options.dataset, options.steps))
        return
    cluster.connect()
    ratios = []
    for number in range(1, options.rounds + 1):
        if options.workers:
            ratio, figures = speedup(options.dataset, options.steps, options.workers)
        else:
            ratio, figures = overhead(options.dataset, options.steps)
        ratios.append(ratio)
        print(f"round {number}: {figures}, ratio {ratio:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
