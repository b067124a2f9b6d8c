"""What a run will take, before it starts: steps, bytes, memory, time and energy, from a calibration of seconds."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from rayscale import machine
from rayscale.data import Batch
from rayscale.data.manifest import Manifest
from rayscale.data.multiscale import lr_sides
from rayscale.errors import ConfigError
from rayscale.evaluation.cost import describe_device
from rayscale.inference.device import pick_device
from rayscale.inference.memory import memory_limit
from rayscale.machine import joules
from rayscale.training.assembly import make_trainer
from rayscale.training.config import TrainConfig
from rayscale.training.metrics import duration
from rayscale.training.step import Trainer

_SECONDS = 3.0
_SCALES = 4  # that are calibrated, of a network of many
_SOME = 4  # patches that are compared with one
_COPIES = 4  # weights, gradients and Adam's two moments


@dataclass(frozen=True)
class Cost:
    """What a run takes; seconds and joules without the exchange of gradients, on ``device``.

    ``memory`` are bytes of one worker, of which ``available`` may be taken; ``joules`` is None where no counter can be
    read.
    """

    steps: int
    samples: int
    epochs: float
    read: int
    parameters: int
    memory: int
    available: int
    seconds: float
    joules: float | None
    device: str
    workers: int

    def rows(self) -> dict[str, str]:
        """The table of ``rayscale train --dry-run``."""
        energy = "not known: no counter of this machine can be read"
        if self.joules is not None:
            energy = f"{self.joules / 3.6e6:.3g} kWh per worker"
        return {
            "steps": f"{self.steps}",
            "samples": f"{self.samples} patches, {self.epochs:.1f} epochs of the sub-images",
            "read": f"{_size(self.read)} of shards, once per node where its cache holds them",
            "parameters": f"{self.parameters}",
            "workers": f"{self.workers}",
            "memory": f"{_size(self.memory)} per worker, of {_size(self.available)} that are free for it",
            "time": f"{duration(self.seconds)} ({self.seconds / self.steps:.3g} s per step), without validation and the "
            "exchange of gradients",
            "energy": energy,
            "measured on": self.device,
        }


def estimate(config: TrainConfig) -> Cost:
    """The cost of a run on machines like this one; its shards are not read and nothing is written.

    The memory of the share of a worker follows from that of one patch and of four, so that what cannot fit is never tried.

    Raises ConfigError for what cannot fit, and as ``make_trainer`` does.
    """
    config = config.identified()
    manifest = Manifest.load(config.data.uri or "")
    device = pick_device("cpu" if config.workers.gpu is False else "auto")
    count = config.workers.count
    torch.set_num_threads(config.workers.threads or max(1, machine.cpu_count() // count))
    available = _free(device)
    if device.type == "cpu" and not os.environ.get("RAY_ADDRESS"):
        available //= count  # all on this machine
    # Without Ray, the whole network in one process, and the batch as large as the share of one worker.
    share = -(-config.data.batch // count)
    trainer = make_trainer(_calibrated(config, share), manifest, device=device)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    fixed = 4 * parameters * (_COPIES + bool(config.optimizer.ema))
    _check(fixed, available, "weights, gradients and moments alone")
    scales = config.model.drawn
    if not config.data.mixed and len(scales) > _SCALES:
        scales = scales[:: len(scales) // _SCALES]
    patches = max(1, share // len(scales)) if config.data.mixed else share
    micro = -(-patches // config.workers.gradient_accumulation)
    memory, seconds, energies = 0, 0.0, []
    for scale in scales:
        one, some = (_peak(trainer, _batch(config, manifest, scale, n)) for n in (1, _SOME))
        # At least input, target, output and its gradient: small networks drown in what the process takes anyway.
        batch = _batch(config, manifest, scale, 1)
        least = 4 * (batch.lr.numel() + 3 * batch.hr.numel())
        memory = max(memory, one + (micro - 1) * max(least, (some - one) // (_SOME - 1)))
    _check(memory, available, f"{micro} patches of {config.data.patch} at once")
    weight = 1.0 if config.data.mixed else 1 / len(scales)  # of one step
    for scale in scales:
        batch = _batch(config, manifest, scale, micro)
        took, energy = _time(trainer, batch, _SECONDS / len(scales))
        seconds += took * weight * patches / micro
        energies += [energy * weight * patches / micro] if energy is not None else []
    steps, samples = config.optimizer.steps, config.optimizer.steps * config.data.batch
    return Cost(
        steps=steps,
        samples=samples,
        epochs=samples / max(1, manifest.counts.sub_images),
        read=sum(_columns(manifest, config)),
        parameters=parameters,
        memory=memory,
        available=available,
        seconds=seconds * steps,
        joules=sum(energies) * steps if energies else None,
        device=describe_device(device),
        workers=count,
    )


def _calibrated(config: TrainConfig, share: int) -> TrainConfig:
    """The configuration whose steps are measured: the values of weights and losses do not matter."""
    return config.model_copy(
        update={
            "workers": config.workers.model_copy(
                update={"count": 1, "minimum": None, "gradient_accumulation": 1}
            ),
            "data": config.data.model_copy(update={"batch": share}),
            "optimizer": config.optimizer.model_copy(update={"lr": 1e-12}),
            "guard": config.guard.model_copy(update={"spike": 0.0, "anomaly": False}),
            "model": config.model.model_copy(update={"warm_start": "none"}),
        }
    )


def _check(needed: int, available: int, what: str) -> None:
    if needed > available:
        raise ConfigError(
            f"a worker needs {_size(needed)} for {what}, and {_size(available)} are free for it. Use more workers or "
            "larger machines, raise workers.gradient_accumulation, set workers.activation_checkpointing=true or "
            "workers.strategy=fsdp, or lower data.batch or data.patch"
        )


def _columns(manifest: Manifest, config: TrainConfig) -> list[int]:
    """Bytes of the columns that are read: HR, and LR of the scales where the dataset has it."""
    wanted = {"1", *(f"{scale:g}" for scale in config.model.drawn)}
    return [
        column.bytes
        for shard in manifest.shards
        for key, column in shard.columns.items()
        if key in wanted
    ]


def _batch(config: TrainConfig, manifest: Manifest, scale: float, count: int) -> Batch:
    """Patches of noise: what they show does not matter."""
    side = lr_sides(config.data.patch, config.model.drawn, mixed=config.data.mixed)[scale]
    wide = round(side * scale)
    dtype = torch.uint8 if manifest.bits == 8 else torch.uint16
    random = torch.Generator().manual_seed(0)
    lr, hr = (
        torch.randint(0, 256, (count, manifest.channels, n, n), generator=random).to(dtype)
        for n in (side, wide)
    )
    return Batch(lr, hr, scale)


def _peak(trainer: Trainer, batch: Batch) -> int:
    """The most bytes that the process takes in a step; the first also makes gradients and moments."""
    trainer.advance(batch)
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
        trainer.advance(batch)
        return torch.cuda.max_memory_allocated(trainer.device)
    _trim()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of this process starts anew: proc(5)
    trainer.advance(batch)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _trim() -> None:
    """Give back what was freed before, which would hide what is taken now; where the C library can (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _time(trainer: Trainer, batch: Batch, limit: float) -> tuple[float, float | None]:
    """Seconds, and joules of the machine, of a step on ``batch``: on fewer patches where that would take too long."""
    started = time.perf_counter()
    trainer.advance(Batch(batch.lr[:1], batch.hr[:1], batch.scale))
    trainer.check()
    single = time.perf_counter() - started
    total = batch.lr.shape[0]
    some = max(1, min(total, int(limit / 2 / single)))
    part = Batch(batch.lr[:some], batch.hr[:some], batch.scale)
    energy, started, steps = joules(), time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - started < limit / 2:
        trainer.advance(part)
        steps += 1
    trainer.check()
    factor = total / some / steps
    spent = None if energy is None else ((joules() or energy) - energy) * factor
    return (time.perf_counter() - started) * factor, spent


def _free(device: torch.device) -> int:
    """Bytes that workers may take: of the GPU, or of the machine or container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(int(psutil.virtual_memory().available), memory_limit())


def _size(count: float) -> str:
    """Bytes with a unit."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
