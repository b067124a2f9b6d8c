from __future__ import annotations

import pytest
import torch

from rayscale.errors import ConfigError
from rayscale.models.builtin import open_builtin
from rayscale.models.systems import create_model
from rayscale.models.transfer import warm_start

SMALL = {"filters": 8, "blocks": 2}


@pytest.fixture
def model(random_weights):
    return random_weights(create_model("edsr-baseline", scale=2, **SMALL))


@pytest.mark.parametrize(("scale", "fresh"), [(3, 4), (4, 6)])
def test_copies_all_but_the_tail(model, scale, fresh):
    target = create_model("edsr-baseline", scale=scale, **SMALL)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    keys = warm_start(target, model)
    assert len(keys) == fresh
    assert all(key.startswith("tail.") for key in keys)
    given = model.state_dict()
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key] if key in keys else given[key]), key


def test_of_the_same_scale_copies_everything(model):
    target = create_model("edsr-baseline", scale=2, **SMALL)
    assert warm_start(target, model) == []
    x = torch.rand(1, 3, 5, 5)
    assert torch.equal(target(x), model(x))


def test_keeps_the_mean_of_the_target(model):
    target = create_model("edsr-baseline", scale=4, mean=(0.1, 0.2, 0.3), **SMALL)
    warm_start(target, model)
    assert target.add_mean.bias.tolist() == pytest.approx([25.5, 51.0, 76.5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 9, "blocks": 2}, r"head\.0\.weight has shape \(8, 3, 3, 3\), not \(9"),
        ({"filters": 8, "blocks": 3}, r"body\.2\.body\.0\.weight is missing"),
        ({**SMALL, "channels": 2}, "2 channels cannot start from 3; 1 and more than 3 can"),
        ({**SMALL, "value_range": 1.0}, "value_range 255"),
        ({**SMALL, "residual_scaling": 0.1}, "residual_scaling 1"),
    ],
)
def test_names_differences_and_changes_nothing(model, options, message):
    target = create_model("edsr-baseline", scale=4, **options)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        warm_start(target, model)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize(("scale", "fresh"), [(2, set()), (4, {"tail"})])
def test_takes_the_statistics_of_normalisation(random_weights, scale, fresh):
    source = random_weights(create_model("srresnet", scale=2, **SMALL))
    target = create_model("srgan", scale=scale, **SMALL)
    assert {key.split(".")[0] for key in warm_start(target, source)} == fresh
    given = source.state_dict()
    for key, value in target.state_dict().items():
        if key.split(".")[0] not in fresh:
            assert torch.equal(value, given[key]), key


def test_at_another_scale_behind_interpolation(random_weights):
    source = random_weights(create_model("srcnn", scale=2))
    target = create_model("srcnn", scale=3)
    assert warm_start(target, source) == []
    x = torch.rand(1, 1, 5, 5)
    assert torch.equal(target(x, 2), source(x, 2))


@pytest.mark.parametrize(("blocks", "deeper"), [(2, 3), (3, 8), (6, 20), (12, 20)])
def test_a_deeper_vdsr_computes_the_same(random_weights, blocks, deeper):
    source = random_weights(create_model("vdsr", blocks=blocks, filters=8))
    target = create_model("vdsr", blocks=deeper, filters=8)
    assert warm_start(target, source) == []
    x = torch.rand(1, 1, 7, 9) * 255
    assert torch.equal(target(x, 3), source(x, 3))
    assert not torch.equal(target(x, 3), create_model("bicubic", scale=3, channels=1)(x, 3))


def test_a_shallower_vdsr_is_refused(random_weights):
    source = random_weights(create_model("vdsr", blocks=5, filters=8))
    with pytest.raises(ConfigError, match=r"layers\.6\.weight is unexpected"):
        warm_start(create_model("vdsr", blocks=3, filters=8), source)


def test_another_architecture_is_refused(model):
    with pytest.raises(ConfigError, match="edsr-baseline cannot start from srresnet"):
        warm_start(model, create_model("srresnet", scale=2, value_range=255.0, **SMALL))


@pytest.mark.parametrize(
    ("system", "scale", "value_range"),
    [("srresnet", 2, 1.0), ("srgan", 4, 1.0), ("srresnet", 4, 7.0)],
)
def test_srresnet_begins_as_the_edsr_it_starts_from(system, scale, value_range, random_weights):
    options = {**SMALL, "residual_scaling": 0.5}
    source = random_weights(create_model("edsr-baseline", scale=scale, **options))
    target = create_model(system, scale=scale, value_range=value_range, **SMALL).eval()
    assert warm_start(target, source) == []
    x = torch.rand(1, 3, 40, 40)
    border = 10 * scale  # beyond what the padding with black instead of the mean can reach
    outputs = (target(value_range * x) / value_range, source(255 * x) / 255)
    made, expected = (y[..., border:-border, border:-border] for y in outputs)
    assert torch.allclose(made, expected, rtol=1e-4, atol=4e-5)


def test_srresnet_stays_near_when_it_takes_the_statistics_of_a_batch():
    """Of the bundled network and of images with edges, as training has them."""
    source = open_builtin("edsr-baseline-x2").network
    target = create_model("srresnet", scale=2)
    warm_start(target, source)
    x = torch.nn.functional.interpolate(torch.rand(16, 3, 5, 5), size=32)
    with torch.no_grad():
        expected = target.eval()(x)
        apart = (target.train()(x) - expected).square().mean().sqrt()
    assert apart < 0.06


def test_srresnet_of_another_scale_keeps_a_fresh_tail(model):
    target = create_model("srresnet", scale=4, **SMALL)
    assert {key.split(".")[0] for key in warm_start(target, model)} == {"tail"}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_mdsr_begins_as_the_edsr_it_starts_from(scale, random_weights):
    source = random_weights(create_model("edsr-baseline", scale=scale, **SMALL))
    target = create_model("mdsr-baseline", **SMALL)
    fresh = warm_start(target, source)
    x = 255 * torch.rand(1, 3, 7, 6)
    assert torch.allclose(target(x, scale), source(x), atol=1e-3)
    index = (2, 3, 4).index(scale)
    assert any(key.startswith("pre_process") for key in fresh)
    assert not any(key.startswith((f"upsample.{index}", "head", "body", "tail")) for key in fresh)


def test_mdsr_learns_before_its_trunk_from_there_on(model):
    target = create_model("mdsr-baseline", **SMALL)
    warm_start(target, model)
    target(255 * torch.rand(1, 3, 7, 6), 2).sum().backward()
    assert target.pre_process[0][0].body[2].weight.grad.abs().sum() > 0


def test_one_channel_is_the_grey_image_of_rgb(model):
    mean = (0.5, 0.5, 0.5)
    source = create_model("edsr-baseline", scale=2, mean=mean, **SMALL)
    source.load_state_dict(
        {k: v for k, v in model.state_dict().items() if "_mean" not in k}, strict=False
    )
    target = create_model("edsr-baseline", scale=2, channels=1, **SMALL)
    assert warm_start(target, source) == []
    grey = 255 * torch.rand(2, 1, 6, 5)
    expected = source(grey.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
    assert torch.allclose(target(grey), expected, atol=1e-3)


def test_further_channels_are_the_mean_and_change_nothing(model):
    mean = (*model.spec.mean, 0.4)
    target = create_model("edsr-baseline", scale=2, channels=5, mean=(*mean, 0.4), **SMALL)
    assert warm_start(target, model) == []
    x = 255 * torch.rand(1, 5, 6, 5)
    expected = model(x[:, :3])
    assert torch.allclose(target(x)[:, :3], expected, atol=1e-3)
    shift = 255 * torch.tensor(model.spec.mean)[:, None, None]
    further = (expected - shift).mean(1) + 255 * 0.4
    assert torch.allclose(target(x)[:, 4], further, atol=1e-3)


def test_another_value_range_when_it_is_meant(model):
    target = create_model("edsr-baseline", scale=2, value_range=1671.0, **SMALL)
    assert warm_start(target, model, any_range=True) == []
    assert target.spec.value_range == 1671.0
