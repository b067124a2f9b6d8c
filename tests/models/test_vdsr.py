from __future__ import annotations

import math

import pytest
import torch

from rayscale.errors import ConfigError
from rayscale.models.systems import create_model
from rayscale.resampling import upsample


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_it_equals_the_reference(scale, reference):
    model = create_model("vdsr")
    y = torch.rand(1, 1, 8, 11)
    expected = reference.vdsr(model.state_dict(), y, scale, layers=20)
    with torch.no_grad():
        assert (model(y, scale) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_weights_alone_count_as_published():
    parameters = create_model("vdsr").named_parameters()
    assert sum(p.numel() for key, p in parameters if key.endswith("weight")) == 664_704


def test_it_starts_after_he():
    layers = create_model("vdsr").layers
    assert float(layers[2].weight.detach().std()) == pytest.approx(
        math.sqrt(2 / (64 * 9)), rel=0.05
    )
    assert not layers[2].bias.detach().any()


def test_it_starts_near_bicubic():
    """Within hundredths of white, as what it will have to add; with a last layer after He et al. it was white itself."""
    y = torch.rand(1, 1, 24, 24)
    with torch.no_grad():
        added = create_model("vdsr")(y, 2) - upsample(y, 2)
    assert 0 < added.abs().mean() < 0.05


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_halo_is_the_receptive_field(scale, reached, open_paths):
    model = open_paths(create_model("vdsr", filters=2))
    assert model.halo(scale) == math.ceil(20 / scale) + 2
    distance = reached(model, scale, size=2 * model.halo(scale) + 9)
    assert distance <= model.halo(scale) <= distance + 1


def test_one_network_for_all_scales():
    model = create_model("vdsr", filters=4, blocks=3)
    assert model.scales == (2, 3, 4)
    assert model(torch.rand(1, 1, 7, 9), 2.5).shape == (1, 1, 17, 22)
    with pytest.raises(ConfigError, match=r"any above 1 up to 4, not 4\.5"):
        model(torch.rand(1, 1, 7, 9), 4.5)
    with pytest.raises(ConfigError, match="not 1"):
        model.halo(1)


def test_usage():
    with pytest.raises(ConfigError, match="at least 2 layers"):
        create_model("vdsr", blocks=1)
