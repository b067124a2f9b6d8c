"""Counts against the known ones and against the formula of the convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rayscale.evaluation import cost
from rayscale.evaluation.cost import count, describe_device
from rayscale.models.interpolation import Bicubic
from rayscale.models.spec import ModelSpec
from rayscale.models.systems import create_model, model_names


@pytest.mark.parametrize(
    ("system", "scale", "gmac"), [("edsr-baseline", 2, 90), ("edsr-baseline", 4, 130), ("edsr", 2, 2669)]
)  # fmt: skip
def test_the_known_costs_for_256_by_256(system, scale, gmac):
    with torch.device("meta"):
        spec = create_model(system, scale=scale).spec
    assert count(spec, scale).macs / 1e9 == pytest.approx(gmac, abs=0.5)


def test_a_tiny_network_by_hand():
    spec = ModelSpec("edsr-baseline", (3,), channels=2, filters=4, blocks=1)
    weights = 2 * 4 * 9 + 3 * 4 * 4 * 9 + 4 * 36 * 9  # head, a block and the body's end, upsampler
    last = 4 * 2 * 9  # at the size of the result
    found = count(spec, 3)
    assert found.macs == 256**2 * (weights + 9 * last)
    biases = 4 + 3 * 4 + 36 + 2
    assert found.parameters == weights + last + biases
    assert count(spec, 3, ensemble=True).macs == 8 * found.macs
    assert count(spec, 3, ensemble=True).parameters == found.parameters


@pytest.mark.parametrize("system", model_names())
def test_every_system_can_be_counted(system):
    with torch.device("meta"):
        model = create_model(system, scale=2)
    found = count(model.spec, 2)
    assert (found.macs > 0) == (system not in ("nearest", "bilinear", "bicubic"))
    assert found.parameters == sum(p.numel() for p in model.parameters())


def test_a_network_whose_path_depends_on_values_is_run(monkeypatch):
    class Sorting(Bicubic):
        def __init__(self, spec):
            super().__init__(spec)
            self.rows = nn.Parameter(torch.zeros(5, 1), requires_grad=False)

        def enlarge(self, x, scale):
            kept = x[x >= 0]  # a shape that only the values tell
            return super().enlarge(x, scale) + (self.rows @ kept[None]).sum()

    monkeypatch.setattr(cost, "build", Sorting)
    found = count(ModelSpec("bicubic", (2,), channels=1), 2)
    assert (found.parameters, found.macs) == (5, 5 * 256**2)


def test_times_name_what_they_were_measured_on():
    threads = torch.get_num_threads()
    expected = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    assert describe_device(torch.device("cpu")) == expected
