"""What a run has taken so far, over all its workers and over all the processes that trained it one after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist

from rayscale.data import Batch
from rayscale.machine import Energy


@dataclass(frozen=True)
class Spent:
    """Costs of a run.

    Attributes:
        work_seconds: from the first step to the last, validation and checkpoints included, summed over the workers.
        megapixels: of the LR patches of its steps.
        patch_bytes: of the LR and HR patches of its steps, as they are stored.
        joules: of the processors of the machines, all that ran there; None where a machine has no counter to be read.
    """

    work_seconds: float = 0.0
    megapixels: float = 0.0
    patch_bytes: float = 0.0
    joules: float | None = 0.0

    def figures(self) -> dict[str, float]:
        """What is known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Spending:
    """Adds up what the workers of a run take; ``neighbours`` are the workers of this machine, which share its counters."""

    def __init__(
        self, world: int, device: torch.device, neighbours: int, energy: Energy | None = None
    ) -> None:
        self.spent = Spent()
        self._world, self._device, self._neighbours = world, device, neighbours
        self._energy = energy or Energy()
        self._joules = self._energy.read()
        self._since = time.monotonic()
        self._megapixels = self._bytes = 0.0

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what an earlier process had taken at its checkpoint; those of older versions do not say."""
        self.spent = Spent(**state)

    def state(self) -> dict[str, float | None]:
        """What a checkpoint holds of it."""
        return asdict(self.spent)

    def add(self, batch: Batch) -> None:
        """This worker takes a step on these patches."""
        *_, height, width = batch.lr.shape
        self._megapixels += len(batch.lr) * height * width / 1e6
        self._bytes += batch.lr.nbytes + batch.hr.nbytes

    def settle(self) -> None:
        """Add what all workers took since the last time; all of them call it together."""
        now, joules = time.monotonic(), self._energy.read()
        spent = math.nan
        if joules is not None and self._joules is not None:
            spent = (joules - self._joules) / self._neighbours
        own = [now - self._since, self._megapixels, self._bytes, spent]
        seconds, megapixels, size, energy = self._sum(own)
        before = self.spent
        known = before.joules is not None and math.isfinite(energy)
        self.spent = Spent(
            before.work_seconds + seconds,
            before.megapixels + megapixels,
            before.patch_bytes + size,
            before.joules + energy if known and before.joules is not None else None,
        )
        self._since, self._joules = now, joules
        self._megapixels = self._bytes = 0.0

    def _sum(self, own: list[float]) -> list[float]:
        if self._world == 1:
            return own
        total = torch.tensor(own, device=self._device, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]
