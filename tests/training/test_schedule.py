"""The learning rate against its closed form."""

from __future__ import annotations

import math

import pytest

from rayscale.training.schedule import lr_at
from rayscale.training.sections import OptimizerSection


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1e-4), (199_999, 1e-4), (200_000, 5e-5), (299_999, 5e-5), (400_000, 2.5e-5)],
)
def test_the_paper_halves_every_200k_steps(step: int, expected: float) -> None:
    assert lr_at(step, OptimizerSection()) == expected


def test_cosine_falls_from_lr_to_zero() -> None:
    config = OptimizerSection(lr=4e-4, schedule="cosine", steps=1200)
    assert lr_at(0, config) == 4e-4
    assert lr_at(600, config) == pytest.approx(2e-4)
    assert lr_at(400, config) == pytest.approx(4e-4 * (1 + math.cos(math.pi / 3)) / 2)
    assert lr_at(1200, config) == pytest.approx(0, abs=1e-20)
    values = [lr_at(step, config) for step in range(1201)]
    assert values == sorted(values, reverse=True)
