"""One update of the weights: forward, loss, backward, guard, optimizer, EMA. Nothing about files or intervals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from rayscale.data import Batch
from rayscale.inference.device import pick_dtype
from rayscale.models.network import SuperResolver
from rayscale.training.config import TrainConfig
from rayscale.training.guard import Guard, NonFiniteLossError
from rayscale.training.optimizer import clip, make_optimizer, set_rates
from rayscale.training.parallel import (
    gathered,
    load_moments,
    load_weights,
    local,
    prepare,
    spread,
    unsynchronized,
    whole,
)


class Trainer:
    """Model, optimizer and running mean of one worker, advanced one global batch at a time.

    Statistics of batch normalisation are those of each worker's own share; the running ones, which training does not
    use, are saved from rank 0.

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
        self.synchronous = self.device.type == "cpu"  # looking at a value costs nothing
        self.rank, self.world = rank, world
        self.batch = config.data.batch
        workers = config.workers
        self.micro_batches = workers.gradient_accumulation
        self.sharded = world > 1 and workers.strategy == "fsdp"
        self.layout = torch.channels_last if workers.channels_last else torch.contiguous_format
        self.model: SuperResolver = model.to(self.device).train()
        if not self.sharded:  # FSDP takes contiguous weights only; the inputs decide
            self.model = self.model.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.gain = model.spec.value_range / peak
        # As in inference: bfloat16 has 8 bits, so deeper pixels use it only when asked to.
        deep = peak > 255 and config.precision == "auto"
        self.dtype = pick_dtype(config.precision, self.device, 16 if deep else 8)
        # The parts of other scales get no gradient, which DDP has to be told.
        partial = len(model.scales) > 1 and bool(model.scale_bound)
        self.parallel = prepare(model, workers, self.device, world, partial=partial)
        self.optimizer = make_optimizer(model, self.config)
        # All that is a float moves: weights and, with batch normalisation, running statistics.
        self.live = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        self._parts = [local(v) for v in self.live.values()]
        self.average = [v.clone() for v in self._parts] if self.config.ema else None
        self.guard = Guard(config.guard, self.device, world)
        self.step = 0
        self.forward_seconds = 0.0  # of the host, in forward passes
        self._good: dict[str, Any] | None = None

    def advance(self, *batches: Batch, stop: bool = False) -> bool:
        """Train on this worker's share of a global batch; whether all have to end here, as one was asked to ``stop``.

        Several workers on GPUs learn of it at the next ``check``: one that ended alone would leave the others waiting.

        Each of ``batches`` has patches of one scale, uint8 or uint16; together they are the share. Gradients are those of
        the mean over the global batch, for any number of workers and any shares.

        Raises:
            NonFiniteLossError: on every worker, before the weights change. On a GPU it is raised by ``check``
                instead, so that no step has to wait for the device; the weights have not changed either.
            UnstableError: like it, for spikes.
        """
        for optimizer in self._optimizers:
            set_rates(optimizer, self.step, self.config)
            optimizer.zero_grad(set_to_none=True)
        with self._anomaly():
            losses = [self._learn(batch, len(batches)) for batch in batches]
        # Losses are compared with those of like steps: of one scale, or of the mixture.
        kind = batches[0].scale if len(batches) == 1 else None
        self.guard.watch(torch.stack(losses).sum(), stop, self.step, kind)
        spike = False
        if self.synchronous:
            stop, spike = self._settle()
        elif self.world > 1:
            stop = False
        if not spike:
            self._update()
        self.step += 1
        return stop

    def check(self) -> bool:
        """Wait for the device, raise or roll back for what the losses were, and tell whether to stop."""
        return self._settle()[0]

    def mean_loss(self) -> float:
        """Mean loss of the steps since the last call, over all workers; waits for the device."""
        return self.guard.mean_loss()

    def figures(self) -> dict[str, float]:
        """What to log: means since the last call, and the norm of the last gradient; every rank asks together."""
        figures = {"loss": self.mean_loss(), "grad_norm": self._gradient_norm()}
        if self.guard.config.spike:
            figures["rollbacks"] = float(self.guard.rollbacks)
        return figures

    def _gradient_norm(self) -> float:
        """Of the last update, after clipping."""
        parts = [local(p.grad) for p in self.model.parameters() if p.grad is not None]
        squares = [norm.square() for norm in torch._foreach_norm(parts)] if parts else []
        total = torch.stack(squares).sum() if squares else torch.zeros((), device=self.device)
        if self.sharded:
            dist.all_reduce(total)
        return float(total.sqrt())

    def average_state(self) -> dict[str, Tensor]:
        """The state dict to evaluate and publish: the running mean when there is one, else the weights.

        Of a ``sharded`` network every rank has to ask, for this and for ``state``.
        """
        state = dict(self.model.state_dict()) | dict(zip(self.live, self._mean(), strict=False))
        return gathered(state) if self.sharded else state

    def _mean(self) -> list[Tensor]:
        """The running mean of what is in ``live``; nothing without one."""
        return [whole(*pair) for pair in zip(self.average or [], self.live.values(), strict=False)]

    def state(self) -> dict[str, Any]:
        """Copies on the CPU of everything that ``load`` needs."""
        return {
            "step": self.step,
            "model": gathered(dict(self.model.state_dict())),
            "optimizer": gathered(self.optimizer.state_dict()),
            "average": None if self.average is None else gathered(self._mean()),
            "guard": self.guard.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from ``state()``."""
        load_weights(self.model, state["model"])
        load_moments(self.optimizer, state["optimizer"])
        if self.average is not None:
            for mine, saved, like in zip(
                self.average, state["average"], self.live.values(), strict=True
            ):
                mine.copy_(local(spread(saved, like)))
        self.guard.load(state["guard"])
        self.step = int(state["step"])

    def keep(self) -> dict[str, Any] | None:
        """Remember this ``state()`` as the one that a spike rolls back to, and give it; None without the guard."""
        if self.guard.config.spike:
            self.guard.note_checkpoint()
            self._good = self.state()
        return self._good

    def predict(self, batch: Batch) -> Tensor:
        """What the network makes of the LR patches of a batch, in the model's value range."""
        with self._autocast():
            return self.parallel(self.model.training_view(self._to_device(batch.lr)), batch.scale)  # type: ignore[no-any-return]

    def _learn(self, batch: Batch, scales: int) -> Tensor:
        """The loss of one of ``scales`` of this worker's share, its gradients added to those in the parameters."""
        # As many on every worker, whatever its share: of shards each takes part in all.
        count = min(self.micro_batches, max(1, self.batch // scales // self.world))
        parts = list(zip(batch.lr.tensor_split(count), batch.hr.tensor_split(count), strict=True))
        losses = []
        for index, (lr, hr) in enumerate(parts):
            share = lr.shape[0] * self.world / self.batch  # DDP takes the mean over workers
            with ExitStack() as stack:
                if index < len(parts) - 1:
                    for replica in self._replicas:
                        stack.enter_context(unsynchronized(replica))
                inputs, target = self._to_device(lr), self._to_device(hr)
                losses.append(self._differentiate(inputs, target, batch.scale, share))
        return torch.stack(losses).sum()

    @contextmanager
    def _anomaly(self) -> Iterator[None]:
        """Where it is asked for, NonFiniteLossError that names the operation whose gradient is not finite."""
        if not self.guard.config.anomaly:
            yield
            return
        try:
            with torch.autograd.set_detect_anomaly(True):
                yield
        except RuntimeError as error:
            if "nan values" not in str(error):
                raise
            raise NonFiniteLossError(
                f"a gradient is not finite at step {self.step + 1}; the update was not made: {str(error).rstrip('.')}",
                self.step,
            ) from None

    def _differentiate(
        self, inputs: Tensor, target: Tensor, scale: float | None, share: float
    ) -> Tensor:
        """The loss of some of this worker's share, its gradients added to those in the parameters."""
        view = self.model.training_view
        started = time.perf_counter()
        with self._autocast():
            output = self.parallel(view(inputs), scale)
        self.forward_seconds += time.perf_counter() - started
        loss = self._loss(output.float(), view(target)) * share
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the patches of the loss that is configured; in the model's value range."""
        if self.config.loss == "l1":
            return functional.l1_loss(output, target)
        loss = functional.mse_loss(output, target)
        if (
            self.config.loss == "euclidean"
        ):  # the sum of the squares is their mean times the pixels of a patch
            loss = loss * (output[0].numel() / (2 * self.model.spec.value_range**2))
        return loss

    def _update(self) -> None:
        self._apply(self.optimizer)
        if self.average is not None:
            # Shorter at first, or the initial weights would weigh for thousands of steps.
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, self._parts, 1.0 - decay)

    def _apply(self, optimizer: torch.optim.Optimizer) -> None:
        if not self.synchronous:
            optimizer.found_inf = self.guard.blocked  # type: ignore[attr-defined]
        clip(optimizer, self.config)
        optimizer.step()

    def _settle(self) -> tuple[bool, bool]:
        """Whether to stop, and whether a spike has set everything but the step and the count back."""
        stop, spike = self.guard.look()
        if spike:
            assert self._good is not None, "keep() comes before the first step"
            guard = self._good["guard"] | self.guard.count_rollback(self.step)
            self.load({**self._good, "step": self.step, "guard": guard})
        return stop, spike

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def _replicas(self) -> tuple[torch.nn.Module, ...]:
        """The networks whose gradients are exchanged."""
        return (self.parallel,)

    @property
    def _optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.optimizer,)

    def _to_device(self, pixels: Tensor) -> Tensor:
        moved = pixels.to(self.device, non_blocking=True).to(torch.float32) * self.gain
        return moved.contiguous(memory_format=self.layout)
