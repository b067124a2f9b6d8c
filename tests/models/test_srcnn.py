from __future__ import annotations

import pytest
import torch

from rayscale.errors import ConfigError
from rayscale.models.systems import create_model


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["srcnn", "srcnn-955"])
def test_it_equals_the_reference(name, scale, reference, random_weights):
    model = random_weights(create_model(name, scale=scale))
    y = torch.rand(2, 1, 9, 14)
    expected = reference.srcnn(model.state_dict(), y, scale)
    with torch.no_grad():
        assert (model(y) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_weights_alone_count_as_published():
    for name, weights in (("srcnn", 8_032), ("srcnn-955", 57_184)):
        model = create_model(name, scale=2)
        counted = sum(p.numel() for key, p in model.named_parameters() if key.endswith("weight"))
        assert counted == weights


def test_the_signal_lives_in_fresh_weights():
    """The paper's own start, a deviation of 0.001, would leave a millionth of it."""
    model = create_model("srcnn-955", scale=2)
    y = torch.rand(1, 1, 16, 16)
    assert float(model(y).detach().std()) > 0.01
    assert not model.layers[0].bias.detach().any()


def test_an_edge_is_repeated_not_black(random_weights):
    """Where the image is flat the output is flat, up to the border."""
    out = random_weights(create_model("srcnn", scale=2))(torch.full((1, 1, 8, 8), 0.5))
    assert float(out.detach().std()) <= 1e-5


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["srcnn", "srcnn-955"])
def test_the_halo_is_the_receptive_field(name, scale, reached, open_paths):
    model = open_paths(create_model(name, scale=scale, filters=2))
    distance = reached(model, scale, size=2 * model.halo(scale) + 9)
    assert distance <= model.halo(scale) <= distance + 1


def test_the_value_range_is_free(random_weights):
    model = random_weights(create_model("srcnn", scale=2, filters=8))
    wide = create_model("srcnn", scale=2, filters=8, value_range=255.0)
    wide.load_state_dict(model.state_dict())
    y = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(wide(y * 255), model(y) * 255, atol=1e-2, rtol=1e-4)


def test_luma_only():
    with pytest.raises(ConfigError, match="one channel"):
        create_model("srcnn", scale=2, channels=3)
    with pytest.raises(ConfigError, match="takes no blocks"):
        create_model("srcnn", scale=2, blocks=3)
    with pytest.raises(ConfigError, match="at least 2 filters"):
        create_model("srcnn", scale=2, filters=1)
