"""The optimizer of a configuration, and what happens to rates and gradients before its step."""

from __future__ import annotations

import torch
from torch import nn

from rayscale.training.parallel import local
from rayscale.training.schedule import lr_at
from rayscale.training.sections import OptimizerSection


def make_optimizer(model: nn.Module, config: OptimizerSection) -> torch.optim.Optimizer:
    """Adam or SGD over what is trained, the last layer as a group of its own where its rate differs.

    Both are the fused ones: they take ``found_inf`` and then leave everything as it is, without asking the host.
    Parameters without a gradient keep their value and their moments.
    """
    groups = [
        {"params": parameters, "factor": factor} for parameters, factor in _groups(model, config)
    ]
    if config.algorithm == "sgd":
        return torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return torch.optim.Adam(
        groups,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def set_rates(optimizer: torch.optim.Optimizer, step: int, config: OptimizerSection) -> None:
    """The learning rates of the update that follows ``step``."""
    for group in optimizer.param_groups:
        group["lr"] = lr_at(step, config) * group["factor"]


def clip(optimizer: torch.optim.Optimizer, config: OptimizerSection) -> None:
    """Bound the gradients as the configuration says.

    ``adjustable`` bounds each by ``clip_at / lr``, so that no update is larger than ``clip_at`` whatever the rate
    (Kim et al. 2016).
    """
    groups = [
        (group["lr"], [p for p in group["params"] if p.grad is not None])
        for group in optimizer.param_groups
    ]
    if config.clip == "norm":
        nn.utils.clip_grad_norm_([p for _, graded in groups for p in graded], config.clip_at)
    elif config.clip != "none":
        for lr, graded in groups:
            if graded:  # torch refuses an empty list
                bound = config.clip_at / (lr if config.clip == "adjustable" else 1.0)
                gradients = [local(p.grad) for p in graded]
                torch._foreach_clamp_min_(gradients, -bound)
                torch._foreach_clamp_max_(gradients, bound)


def _groups(model: nn.Module, config: OptimizerSection) -> list[tuple[list[nn.Parameter], float]]:
    trained = [p for p in model.parameters() if p.requires_grad]
    if config.last_layer_lr == 1.0:
        return [(trained, 1.0)]
    layers = [layer for layer in model.modules() if any(True for _ in layer.parameters(False))]
    last = {id(p) for p in layers[-1].parameters(False)}
    return [
        ([p for p in trained if id(p) not in last], 1.0),
        ([p for p in trained if id(p) in last], config.last_layer_lr),
    ]
