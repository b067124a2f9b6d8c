from __future__ import annotations

import pytest
import torch

from rayscale.errors import ConfigError
from rayscale.models import meta
from rayscale.models.meta import MetaUpscale
from rayscale.models.systems import create_model

SMALL = {"filters": 4, "blocks": 1}
SCALES = [2, 3, 4, 1.5, 2.4, 3.33, 1.01, 4 / 3]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(7, 12), (1, 1), (3, 26)])
def test_upscaling_equals_the_equations(reference, scale, size):
    layer = MetaUpscale(filters=2, channels=3)
    features = torch.randn(2, 2, *size)
    state = {f"upscale.{key}": value for key, value in layer.state_dict().items()}
    expected = reference.meta_upscale(state, features, scale)
    with torch.no_grad():
        found = layer(features, scale)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4


@pytest.mark.parametrize(("channels", "value_range"), [(1, 1.0), (3, 255.0)])
@pytest.mark.parametrize("name", ["meta-edsr", "meta-srgan"])
def test_the_network_equals_the_reference(name, channels, value_range, reference, random_weights):
    model = random_weights(create_model(name, channels=channels, value_range=value_range, **SMALL))
    x = torch.rand(1, channels, 6, 9) * value_range
    mean = model.spec.value_range * torch.tensor(model.spec.mean)[:, None, None]
    state = model.state_dict()
    if name == "meta-edsr":
        features = reference.meta_edsr_trunk(state, x - mean, blocks=1)
        expected = reference.meta_upscale(state, features, 2.5) + mean
    else:
        features = reference.srgan_trunk(state, x / value_range, blocks=1)
        expected = reference.meta_upscale(state, features, 2.5) * value_range
    with torch.no_grad():
        assert (model(x, 2.5) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("scale", "kernels"), [(3, 9), (2.4, 144), (1.5, 9), (3.33, 67**2)])
def test_a_kernel_is_computed_once(scale, kernels):
    layer, computed = MetaUpscale(filters=2, channels=1), []
    layer.predictor.register_forward_hook(lambda _, places, out: computed.append(places[0]))
    layer(torch.rand(2, 2, 20, 20), scale)
    places = torch.cat(computed)
    assert len(places) == len(places.unique(dim=0)) == kernels


def test_fresh_kernels_are_as_strong_as_those_of_a_convolution():
    kernels = MetaUpscale(filters=64, channels=1).kernels(range(2), range(2), 2, 1)
    usual = float(torch.nn.Conv2d(64, 1, 3).weight.detach().std())
    assert 0.2 * usual <= float(kernels.detach().std()) <= 2 * usual


@pytest.mark.parametrize("scale", [2, 2.4])
def test_row_chunks_change_nothing(scale, monkeypatch):
    layer, features = MetaUpscale(filters=2, channels=3), torch.rand(2, 2, 13, 11)
    whole = layer(features, scale)
    monkeypatch.setattr(meta, "_PATCH_NUMBERS", 300)
    assert torch.allclose(layer(features, scale), whole, atol=1e-6)


def test_the_kernels_stay_exact_under_autocast():
    layer, features = MetaUpscale(filters=8, channels=1), torch.rand(1, 8, 9, 9)
    exact = layer.kernels(range(3), range(4), 12, 5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer.kernels(range(3), range(4), 12, 5)
        image = layer(features, 2.4)
    assert torch.equal(mixed, exact)
    assert (image - layer(features, 2.4)).abs().max() <= 0.02 * image.abs().max()


@pytest.mark.parametrize("name", ["meta-edsr", "meta-srgan"])
def test_everything_learns_at_a_fractional_scale(name):
    model = create_model(name, channels=1, **SMALL).train()
    model(torch.rand(2, 1, 8, 8), 1.7).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", ["meta-edsr", "meta-srgan"])
def test_the_halo_is_the_receptive_field(name, reached, open_paths):
    model = open_paths(create_model(name, **SMALL))
    for scale in (2, 3, 4):
        halo = model.halo(scale)
        assert reached(model, scale, size=2 * halo + 9) == halo == model.halo(2.5)


def test_scales_out_of_the_range():
    model = create_model("meta-srgan", **SMALL)
    x = torch.rand(1, 1, 4, 4)
    for scale in (1, 4.01, 0.5):
        with pytest.raises(ConfigError, match="any above 1 up to 4"):
            model(x, scale)
    with pytest.raises(ConfigError, match="too many digits"):
        model(x, 2.2360679)
