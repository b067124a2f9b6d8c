"""The GAN stage: one update of a generator and of the discriminator that judges it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from rayscale.models.network import SuperResolver
from rayscale.training.config import TrainConfig
from rayscale.training.discriminator import Discriminator
from rayscale.training.optimizer import make_optimizer
from rayscale.training.parallel import gathered, load_moments, replicate
from rayscale.training.perceptual import make_content
from rayscale.training.step import Trainer


class AdversarialTrainer(Trainer):
    """A ``Trainer`` whose loss is content and the verdict of a discriminator, which learns beside it.

    Generator: ``content(G(lr), hr) + weight * -log D(G(lr))``. Discriminator: binary cross-entropy over real and
    super-resolved images (Goodfellow et al. 2014, Ledig et al. 2017). The gradients of both are taken before either
    moves, so that one check of both losses comes before both updates. Arguments as in ``Trainer``; what is evaluated
    and published is the generator.
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
        super().__init__(config, model, peak=peak, rank=rank, world=world, device=device)
        self.weight = config.adversarial.weight
        self.content = make_content(config.adversarial, model.channels, self.device)
        scale = config.model.scale  # several scales make images of several sizes
        side = None if scale is None else config.data.patch * scale
        self.discriminator = Discriminator(model.channels, side).to(self.device).train()
        self.judge = replicate(self.discriminator, self.device, world)
        self.judge_optimizer = make_optimizer(self.discriminator, self.config)
        self._judged = torch.zeros(
            2, device=self.device
        )  # sum of its losses, and of what they are the mean of, in steps

    def figures(self) -> dict[str, float]:
        """What to log: means since the last call over all workers; waits for the device."""
        if self.world > 1:
            dist.all_reduce(self._judged)
        total, count = self._judged.tolist()
        self._judged.zero_()
        judged = total / count if count else float("nan")
        return {**super().figures(), "discriminator_loss": judged}

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "discriminator": gathered(self.discriminator.state_dict()),
            "judge_optimizer": gathered(self.judge_optimizer.state_dict()),
        }

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.discriminator.load_state_dict(state["discriminator"])
        load_moments(self.judge_optimizer, state["judge_optimizer"])

    def _differentiate(
        self, inputs: Tensor, target: Tensor, scale: float | None, share: float
    ) -> Tensor:
        with self._autocast():
            output = self.parallel(self.model.training_view(inputs), scale)
        fake = self._sign(output.float())
        real = self._sign(self.model.training_view(target))

        self.discriminator.requires_grad_(False)
        with self._autocast():
            verdict = self.discriminator(fake)
            content = self.content(fake, real)
        loss = (content.float() + self.weight * _cross_entropy(verdict, real=True)) * share
        loss.backward()  # type: ignore[no-untyped-call]

        self.discriminator.requires_grad_(True)
        judged = torch.zeros_like(loss)
        # One after the other: each keeps its own batch statistics.
        for images, truth in ((real, True), (fake.detach(), False)):
            with self._autocast():
                verdict = self.judge(images)
            part = _cross_entropy(verdict, real=truth) * share
            part.backward()  # type: ignore[no-untyped-call]
            judged += part.detach()
        self._judged += torch.stack([judged, torch.full_like(judged, share)])
        # A discriminator that is lost is as bad as a generator that is.
        return torch.where(torch.isfinite(judged), loss.detach(), judged)

    def _update(self) -> None:
        super()._update()
        self._apply(self.judge_optimizer)

    @property
    def _replicas(self) -> tuple[torch.nn.Module, ...]:
        return (self.parallel, self.judge)

    @property
    def _optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.optimizer, self.judge_optimizer)

    def _sign(self, x: Tensor) -> Tensor:
        """From ``[0, value_range]`` to [-1, 1]."""
        return x * (2 / self.model.spec.value_range) - 1


def _cross_entropy(logits: Tensor, *, real: bool) -> Tensor:
    wide = logits.float()
    truth = torch.full_like(wide, float(real))
    loss: Tensor = functional.binary_cross_entropy_with_logits(wide, truth)
    return loss
