"""Optimizers, rates and clipping against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rayscale.training.optimizer import clip, make_optimizer, set_rates
from rayscale.training.sections import OptimizerSection


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 1)))


def with_gradients(model: nn.Module, value: float) -> None:
    for p in model.parameters():
        p.grad = torch.full_like(p, value)


def test_sgd_with_momentum_and_weight_decay() -> None:
    model = network()
    config = OptimizerSection(algorithm="sgd", lr=0.1, momentum=0.5, weight_decay=0.01)
    optimizer = make_optimizer(model, config)
    expected = [p.detach().clone() for p in model.parameters()]
    velocity = [torch.zeros_like(p) for p in expected]
    for step in range(3):
        set_rates(optimizer, step, config)
        with_gradients(model, 2.0)
        optimizer.step()
        velocity = [0.5 * v + 2.0 + 0.01 * p for v, p in zip(velocity, expected, strict=True)]
        expected = [p - 0.1 * v for p, v in zip(expected, velocity, strict=True)]
    for mine, other in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_the_last_layer_has_its_own_rate() -> None:
    model = network()
    config = OptimizerSection(algorithm="sgd", lr=0.1, last_layer_lr=0.1, decay=0.5, decay_every=1)
    optimizer = make_optimizer(model, config)
    set_rates(optimizer, 1, config)
    before = [p.detach().clone() for p in model.parameters()]
    with_gradients(model, 1.0)
    optimizer.step()
    moved = [(a - b).mean().item() for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == pytest.approx([0.05, 0.05, 0.005, 0.005], rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "step", "expected"),
    [("none", 0, 10.0), ("value", 0, 0.4), ("adjustable", 0, 4.0), ("adjustable", 1, 10.0)],
)
def test_clipping(kind: str, step: int, expected: float) -> None:
    """Adjustable bounds lr * gradient by 0.4: at lr 0.1 the gradient by 4, at 0.01 by 40."""
    config = OptimizerSection(lr=0.1, decay=0.1, decay_every=1, clip=kind, clip_at=0.4)  # type: ignore[arg-type]
    model = network()
    optimizer = make_optimizer(model, config)
    set_rates(optimizer, step, config)
    with_gradients(model, -10.0)
    model[0].bias.grad = None  # a part that was not used
    clip(optimizer, config)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) == 3
    assert all(torch.allclose(grad, torch.full_like(grad, -expected)) for grad in grads)


def test_clipping_by_norm() -> None:
    config = OptimizerSection(clip="norm", clip_at=0.4)
    model = network()
    optimizer = make_optimizer(model, config)
    with_gradients(model, 3.0)
    clip(optimizer, config)
    squares = sum((p.grad**2).sum() for p in model.parameters() if p.grad is not None)
    assert float(squares) ** 0.5 == pytest.approx(0.4, rel=1e-4)
