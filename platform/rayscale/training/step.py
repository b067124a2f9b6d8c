"""One update of the weights: forward, loss, backward, guard, Adam, EMA. Nothing about files or intervals."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from rayscale.errors import RayscaleError
from rayscale.inference.engine import pick_dtype
from rayscale.models.network import SuperResolver
from rayscale.training.config import TrainConfig
from rayscale.training.schedule import lr_at

LOSSES = {"l1": functional.l1_loss, "mse": functional.mse_loss}


class NonFiniteLossError(RayscaleError):
    """The loss became NaN or infinite; the weights are those before that step."""

    code: ClassVar[str] = "non_finite_loss"


class Trainer:
    """Model, optimizer and running mean of one worker, advanced one global batch at a time.

    Args:
        config: the run.
        model: the network, moved to ``device`` in channels-last layout.
        peak: white of the integer patches, 255 or 65535; they are scaled to the model's value range.
        rank, world: this worker among all; with more than one the default process group averages gradients.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: SuperResolver,
        *,
        peak: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config.optimizer
        self.device = torch.device(device)
        self.rank, self.world = rank, world
        self.scale = config.model.scale
        self.batch = config.data.batch
        model = model.to(self.device).train()
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.gain = model.spec.value_range / peak
        # As in inference: bfloat16 has 8 bits, so deeper pixels use it only when asked to.
        deep = peak > 255 and config.precision == "auto"
        self.dtype = pick_dtype(config.precision, self.device, 16 if deep else 8)
        self.parallel: nn.Module = model
        if world > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            self.parallel = DistributedDataParallel(
                model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        # The fused Adam takes `found_inf` and then leaves everything as it is, without asking the host.
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=self.config.lr,
            betas=self.config.betas,
            eps=self.config.eps,
            fused=True,
        )
        self.average = [p.detach().clone() for p in self.parameters] if self.config.ema else None
        # [a loss was not finite, somebody was asked to stop]; they stay set for good.
        self.flags = torch.zeros(2, device=self.device)
        self.bad_step = torch.zeros((), device=self.device)
        self.step = 0
        self._loss_sum = torch.zeros((), device=self.device)
        self._losses = 0

    def advance(self, lr: Tensor, hr: Tensor, *, stop: bool = False) -> bool:
        """Train on this worker's share of a global batch; whether any worker was asked to ``stop``.

        ``lr (n, C, p, p)`` and ``hr (n, C, sp, sp)`` are uint8 or uint16. Gradients are those of the mean
        over the global batch, for any number of workers and any shares.

        Raises:
            NonFiniteLossError: on every worker, before the weights change. On a GPU it is raised by ``check``
                instead, so that no step has to wait for the device; the weights have not changed either.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(self.step, self.config)
        share = lr.shape[0] * self.world / self.batch  # DDP takes the mean over workers
        inputs, target = self._to_device(lr), self._to_device(hr)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self.parallel(inputs, self.scale)
        loss = LOSSES[self.config.loss](output.float(), target) * share
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        stopped = self._guard(loss.detach(), stop)
        self._update()
        self.step += 1
        return stopped

    def check(self) -> bool:
        """Wait for the device, raise for a loss that was not finite, and tell whether to stop."""
        bad, stop = self.flags.tolist()
        if bad:
            raise NonFiniteLossError(
                f"the loss is not finite at step {int(self.bad_step)}; the update was not made. Lower "
                f"optimizer.lr (now {self.config.lr:g}), use precision=float32, or look for damaged images "
                "in the dataset; the last checkpoint is intact"
            )
        return bool(stop)

    def mean_loss(self) -> float:
        """Mean loss of the steps since the last call, over all workers; waits for the device."""
        total = torch.stack([self._loss_sum, torch.full_like(self._loss_sum, self._losses)])
        if self.world > 1:
            dist.all_reduce(total)
        self._loss_sum.zero_()
        self._losses = 0
        loss, count = total.tolist()
        return float(loss / count) if count else float("nan")

    def averaged_state(self) -> dict[str, Tensor]:
        """The state dict to evaluate and publish: the running mean when there is one, else the weights."""
        state = dict(self.model.state_dict())
        if self.average is not None:
            names = [name for name, p in self.model.named_parameters() if p.requires_grad]
            state.update(zip(names, self.average, strict=True))
        return state

    def state(self) -> dict[str, Any]:
        """Copies on the CPU of everything that ``load`` needs."""
        return {
            "step": self.step,
            "model": _copy(self.model.state_dict()),
            "optimizer": _copy(self.optimizer.state_dict()),
            "average": None if self.average is None else _copy(self.average),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from ``state()``."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            for mine, saved in zip(self.average, state["average"], strict=True):
                mine.copy_(saved)
        self.step = int(state["step"])

    def _to_device(self, pixels: Tensor) -> Tensor:
        moved = pixels.to(self.device, non_blocking=True).to(torch.float32) * self.gain
        return moved.contiguous(memory_format=torch.channels_last)

    def _guard(self, loss: Tensor, stop: bool) -> bool:
        """Set the flags on every worker; on the CPU look at them at once, where looking costs nothing."""
        flags = torch.stack([~torch.isfinite(loss), torch.full_like(loss, stop, dtype=torch.bool)])
        flags = torch.maximum(self.flags, flags.to(self.flags.dtype))
        if self.world > 1:
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        self.bad_step += (self.bad_step == 0) * flags[0] * (self.step + 1)
        self.flags = flags
        if self.device.type == "cpu" and self.check():
            stop = True
        self._loss_sum += loss
        self._losses += 1
        return stop

    def _update(self) -> None:
        if self.device.type != "cpu":
            self.optimizer.found_inf = self.flags[0]  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.average is not None:
            torch._foreach_lerp_(self.average, self.parameters, 1.0 - self.config.ema)


def _copy(value: Any) -> Any:
    """The nested value with every tensor as its own CPU tensor."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value
