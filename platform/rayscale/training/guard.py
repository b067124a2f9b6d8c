"""What every loss is checked for, before the weights change: that it is finite, and no spike.

The checks run on the device, because looking at a value would make the host wait for it at every step.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from rayscale.errors import RayscaleError
from rayscale.training.sections import GuardSection

_MEMORY = 0.99  # decay of the running mean of the loss: about a hundred steps


class NonFiniteLossError(RayscaleError):
    """The loss became NaN or infinite; the weights are those before that step."""

    code: ClassVar[str] = "non_finite_loss"

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message, step)
        self.step = step
        """Of the loss, from 0."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnstableError(RayscaleError):
    """The loss left its running mean more often than ``guard.max_rollbacks`` allows, checkpoint after checkpoint."""

    code: ClassVar[str] = "unstable"


class Guard:
    """Flags and figures of the losses, the same on every worker.

    Attributes:
        blocked: 1 on the device when the update of this step must not be made, else 0.
        rollbacks: how often the weights were set back in the whole run.
        means: per scale, the running mean of the losses that were neither a spike nor not finite. Scales differ by
            far in how hard they are. 0 before the first.
    """

    def __init__(self, config: GuardSection, device: torch.device, world: int) -> None:
        self.config, self.world = config, world
        # [a loss was not finite, somebody was asked to stop, a loss was a spike]; set until somebody looks.
        self.flags = torch.zeros(3, device=device)
        self.bad_step = torch.zeros((), device=device)
        self.means: dict[float | None, Tensor] = {}
        self.rollbacks = 0
        # Those since the last checkpoint that was reached from the one before without any: a long run bears a rare spike.
        self._recent = 0
        self._disturbed = False
        self._loss_sum = torch.zeros((), device=device)
        self._losses = 0

    @property
    def blocked(self) -> Tensor:
        return torch.maximum(self.flags[0], self.flags[2])

    def watch(self, loss: Tensor, stop: bool, step: int, scale: float | None = None) -> None:
        """Take the loss of ``step`` (from 0) of this worker's share, and whether it was asked to stop."""
        bad = ~torch.isfinite(loss)
        seen = torch.stack([loss, bad.to(loss.dtype), torch.full_like(loss, stop)])
        if self.world > 1:
            dist.all_reduce(seen)
        loss, bad, asked = seen[0] / self.world, seen[1] > 0, seen[2] > 0
        # After a spike the weights are those that made it, until they are set back: no news.
        settled = self.flags[2] == 0
        mean = self.means.setdefault(scale, torch.zeros_like(loss))
        spike = (mean > 0) & (loss > self.config.spike * mean) & (self.config.spike > 0)
        self.bad_step += (self.bad_step == 0) * (bad & settled) * (step + 1)
        self.flags = torch.maximum(
            self.flags, torch.stack([bad & settled, asked, spike]).to(self.flags.dtype)
        )
        followed = torch.where(mean > 0, mean.lerp(loss, 1 - _MEMORY), loss)
        self.means[scale] = torch.where(self.blocked > 0, mean, followed)
        self._loss_sum += loss
        self._losses += 1

    def look(self) -> tuple[bool, bool]:
        """Wait for the device: whether somebody was asked to stop, and whether there was a spike.

        Raises NonFiniteLossError for a loss that was not finite.
        """
        bad, stop, spike = self.flags.tolist()
        if bad:
            step = int(self.bad_step)
            raise NonFiniteLossError(
                f"the loss is not finite at step {step}; the update was not made. Lower "
                "optimizer.lr, use precision=float32, or look for damaged images in the dataset",
                step - 1,
            )
        return bool(stop), bool(spike)

    def count_rollback(self, step: int) -> dict[str, int]:
        """One more, and the counts, which are not set back; UnstableError when there are too many."""
        self.rollbacks += 1
        self._recent += 1
        self.flags[2] = 0
        if self._recent > self.config.max_rollbacks:
            raise UnstableError(
                f"at step {step} the loss was above {self.config.spike:g} times its running mean once more, after "
                f"{self.config.max_rollbacks} rollbacks (guard.max_rollbacks) with no checkpoint free of them in "
                "between. Lower optimizer.lr, or raise guard.spike if the images of the dataset differ that much"
            )
        return {"rollbacks": self.rollbacks, "recent": self._recent}

    def note_checkpoint(self) -> None:
        """A checkpoint is reached; where nothing was set back on the way, earlier rollbacks are forgiven."""
        if not self._disturbed:
            self._recent = 0
        self._disturbed = False

    def mean_loss(self) -> float:
        """Mean loss of the steps since the last call, over all workers; waits for the device."""
        mean = float(self._loss_sum) / self._losses if self._losses else float("nan")
        self._loss_sum.zero_()
        self._losses = 0
        return mean

    def state(self) -> dict[str, Any]:
        """What ``load`` needs to go on."""
        means = {scale: float(mean) for scale, mean in self.means.items()}
        return {"means": means, "rollbacks": self.rollbacks, "recent": self._recent}

    def load(self, state: dict[str, Any]) -> None:
        device = self.flags.device
        self.means = {scale: torch.tensor(m, device=device) for scale, m in state["means"].items()}
        self.rollbacks = int(state["rollbacks"])
        self._recent = int(state.get("recent", self.rollbacks))  # older versions counted all
        self._disturbed = True  # whether by a spike or by a new start
