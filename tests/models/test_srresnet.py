from __future__ import annotations

import pytest
import torch

from rayscale.errors import ConfigError
from rayscale.models.spec import ModelSpec
from rayscale.models.systems import build, create_model

SMALL = {"filters": 6, "blocks": 2}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_it_equals_the_reference(scale, reference, random_weights):
    model = random_weights(create_model("srresnet", scale=scale))
    x = torch.rand(1, 3, 9, 13)
    expected = reference.srresnet(model.state_dict(), x, scale, blocks=16)
    with torch.no_grad():
        assert (model(x) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_training_normalises_by_the_batch():
    model = create_model("srresnet", scale=2, **SMALL)
    before = model.body[0].body[1].running_mean.clone()
    model.train()(torch.rand(4, 3, 8, 8))
    assert not torch.equal(model.body[0].body[1].running_mean, before)
    assert all(value.is_floating_point() for value in model.state_dict().values())


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels_and_value_range(channels, random_weights):
    model = random_weights(create_model("srgan", scale=4, channels=channels, **SMALL))
    wide = create_model("srgan", scale=4, channels=channels, value_range=255.0, **SMALL).eval()
    wide.load_state_dict(model.state_dict())
    x = torch.rand(1, channels, 5, 6)
    with torch.no_grad():
        assert model(x).shape == (1, channels, 20, 24)
        assert torch.allclose(wide(x * 255), model(x) * 255, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_halo_is_the_receptive_field(scale, reached, open_paths):
    model = open_paths(create_model("srresnet", scale=scale, **SMALL))
    halo = model.halo(scale)
    assert reached(model, scale, size=2 * halo + 9) == halo


def test_one_scale_only():
    with pytest.raises(ConfigError, match="one scale"):
        build(ModelSpec("srresnet", (2, 4)))
    with pytest.raises(ConfigError, match="takes no mean"):
        create_model("srresnet", scale=2, mean=(0, 0, 0))
