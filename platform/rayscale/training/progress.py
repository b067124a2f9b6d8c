"""How fast a run goes, what it makes of the machine, and when it will be done."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rayscale.evaluation.cost import SIDE, count
from rayscale.models.spec import ModelSpec
from rayscale.storage import Store
from rayscale.training.run import PROFILES
from rayscale.training.step import Trainer

_FORWARD_AND_BACKWARD = 3  # the backward pass takes twice the operations of the forward pass
_SCALES = 4  # whose operations are counted, of a network of many


@dataclass
class Clock:
    """Seconds of training (validation and checkpoints excluded), and of them waiting for data."""

    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    def add(self, waiting: float, seconds: float, steps: int = 1) -> None:
        self.steps += steps
        self.seconds += seconds
        self.waiting += waiting

    def figures(self, batch: int) -> dict[str, float]:
        """Means over the time so far; a batch is that of all workers."""
        seconds = max(self.seconds, 1e-9)
        return {
            "steps_per_s": self.steps / seconds,
            "patches_per_s": self.steps * batch / seconds,
            "data_wait": self.waiting / seconds,
        }


class Progress:
    """The clocks of one worker: since the last logged step, and since the start of this process.

    Args:
        work: floating point operations of a step, over all workers; 0 where they are not known.
        steps: after which the run is complete.
    """

    def __init__(self, trainer: Trainer, work: float, steps: int) -> None:
        self.trainer, self.work, self.steps = trainer, work, steps
        self.interval, self.total = Clock(), Clock()
        self._started, self._first = time.monotonic(), trainer.step

    def add(self, waiting: float, seconds: float, steps: int = 1) -> None:
        for clock in (self.interval, self.total):
            clock.add(waiting, seconds, steps)

    def figures(self) -> dict[str, float]:
        """Since the last call; every rank asks together."""
        trainer, clock = self.trainer, self.interval
        figures = clock.figures(trainer.batch)
        if self.work:
            figures["flops"] = self.work * figures["steps_per_s"]
            peak = peak_flops(trainer.device, trainer.dtype) * trainer.world
            figures["peak_share"] = figures["flops"] / peak
        figures["memory_bytes"] = float(peak_memory(trainer.device))
        figures |= self._slowest(clock.waiting + trainer.forward_seconds, max(clock.steps, 1))
        done = trainer.step - self._first
        pace = (time.monotonic() - self._started) / max(
            done, 1
        )  # with all that is done between steps
        figures["seconds_left"] = pace * (self.steps - trainer.step)
        self.interval, trainer.forward_seconds = Clock(), 0.0
        return figures

    def _slowest(self, seconds: float, steps: int) -> dict[str, float]:
        """The rank that the others wait for: data and forward pass, which no other rank takes part in."""
        trainer = self.trainer
        if trainer.world == 1:
            return {}
        own = torch.tensor([seconds / steps], device=trainer.device, dtype=torch.float32)
        each = [torch.zeros_like(own) for _ in range(trainer.world)]
        dist.all_gather(each, own)
        times = torch.cat(each).tolist()
        slowest, mean = max(times), sum(times) / len(times)
        return {
            "slowest_rank": float(times.index(slowest)),
            "slowest_lag": slowest / max(mean, 1e-9) - 1,
        }


def step_flops(spec: ModelSpec, sides: Mapping[float, int], batch: int) -> float:
    """Floating point operations of a step, forward and backward, mean over the scales: ``sides`` of LR patches by scale."""
    scales = list(sides)
    picked = scales if len(scales) <= _SCALES else scales[:: len(scales) // _SCALES]
    products = [sides[scale] ** 2 * _macs(spec, scale) for scale in picked]
    return 2 * _FORWARD_AND_BACKWARD * batch * sum(products) / len(products) / SIDE**2


@cache
def _macs(spec: ModelSpec, scale: float) -> int:
    with torch.random.fork_rng():
        return count(spec, scale).macs


@cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations per second of matrix products on this device, the best of some: measured once."""
    side = 1024 if device.type == "cpu" else 8192
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has taken at most: of the GPU where it trains on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


@contextmanager
def traced(store: Store, steps: int, first: int, device: torch.device) -> Iterator[Any]:
    """A function to call after each step; ``steps`` of them, after three, leave a trace in Chrome's format.

    It lies in ``profile/`` of the run, named by the step that it starts after; https://ui.perfetto.dev opens it.
    """
    if not steps:
        yield lambda: None
        return
    from torch.profiler import ProfilerActivity, profile, schedule

    def keep(profiler: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="rayscale-") as temporary:
            path = Path(temporary, "trace.json.gz")
            profiler.export_chrome_trace(str(path))
            store.write_file(f"{PROFILES}/after-step-{first + 3:08d}.json.gz", path)

    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    plan = schedule(wait=2, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=keep) as profiler:
        yield profiler.step
