from __future__ import annotations

import pytest
import torch

from rayscale.errors import ConfigError, InputError
from rayscale.models.network import MeanShift
from rayscale.models.systems import create_model

SMALL = {"filters": 8, "blocks": 2}


def official_keys(blocks: int, scale: int) -> set[str]:
    layers = ["sub_mean", "head.0", f"body.{blocks}", "tail.0.0", "tail.1", "add_mean"]
    layers += [f"body.{block}.body.{i}" for block in range(blocks) for i in (0, 2)]
    layers += ["tail.0.2"] if scale == 4 else []
    return {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_edsr_has_the_official_keys(scale):
    model = create_model("edsr-baseline", scale=scale)
    assert set(model.state_dict()) == official_keys(16, scale)


def test_mdsr_has_the_official_keys():
    layers = ["sub_mean", "head.0", "body.16", "tail.0", "add_mean"]
    layers += [f"body.{block}.body.{i}" for block in range(16) for i in (0, 2)]
    layers += [f"pre_process.{s}.{b}.body.{i}" for s in range(3) for b in range(2) for i in (0, 2)]
    layers += ["upsample.0.0", "upsample.1.0", "upsample.2.0", "upsample.2.2"]
    keys = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(create_model("mdsr-baseline").state_dict()) == keys


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_edsr_equals_the_reference(reference, scale, factor):
    plain = reference.OfficialEDSR(scale, blocks=3, filters=12, factor=factor)
    model = create_model(
        "edsr-baseline", scale=scale, blocks=3, filters=12, residual_scaling=factor
    )
    model.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 11, 17) * 255
    with torch.no_grad():
        difference = (model(x) - plain(x)).abs().max()
    assert difference <= 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_full_baseline_equals_the_reference(reference, scale):
    plain = reference.OfficialEDSR(scale, blocks=16, filters=64)
    model = create_model("edsr-baseline", scale=scale)
    model.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 16, 16) * 255
    with torch.no_grad():
        assert (model(x) - plain(x)).abs().max() <= 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_mdsr_equals_the_reference(reference, scale):
    plain = reference.OfficialMDSR(blocks=3, filters=12)
    model = create_model("mdsr-baseline", blocks=3, filters=12)
    model.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 11, 17) * 255
    with torch.no_grad():
        assert (model(x, scale) - plain(x, scale)).abs().max() <= 1e-3


def test_mdsr_trains_only_the_modules_of_the_scale():
    model = create_model("mdsr-baseline", **SMALL)
    model(torch.rand(1, 3, 6, 6), 3).mean().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None}
    assert all(
        not key.startswith(("pre_process.0", "pre_process.2", "upsample.0", "upsample.2"))
        for key in touched
    )
    assert {"pre_process.1.0.body.0.weight", "upsample.1.0.weight", "head.0.weight"} <= touched


@pytest.mark.parametrize("channels", [1, 4, 13])
@pytest.mark.parametrize("name", ["edsr-baseline", "mdsr-baseline"])
def test_any_number_of_channels(name, channels):
    model = create_model(name, scale=2, channels=channels, **SMALL)
    assert model.channels == channels
    out = model(torch.rand(2, channels, 5, 7) * 255, 2)
    assert out.shape == (2, channels, 10, 14)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", ["edsr-baseline", "mdsr-baseline"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_halo_is_the_receptive_field(name, scale, reached, open_paths):
    model = open_paths(create_model(name, scale=scale, filters=6, blocks=2))
    halo = model.halo(scale)
    assert reached(model, scale, size=2 * halo + 9) == halo


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_the_halo_covers_interpolation(name, reached):
    model = create_model(name)
    assert model.halo(2) == 4
    assert 1 <= reached(model, 2, size=21) <= 4


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_tile_with_its_halo_equals_the_whole(scale):
    model = create_model("edsr-baseline", scale=scale, **SMALL)
    halo, x = model.halo(scale), torch.rand(1, 3, 12, 60) * 255
    with torch.no_grad():
        whole = model(x)
        left = model(x[..., : 30 + halo])[..., : 30 * scale]
        right = model(x[..., 30 - halo :])[..., halo * scale :]
    assert (torch.cat([left, right], dim=-1) - whole).abs().max() <= 1e-4


def test_autocast_stays_close():
    model = create_model("edsr-baseline", scale=2)
    x = torch.rand(1, 3, 24, 24) * 255
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(x)
    assert mixed.dtype == torch.float32
    assert (mixed - exact).abs().max() < 1.5


def test_the_mean_is_exact_under_autocast_and_keeps_channels_apart():
    shift = MeanShift(255.0, (0.4488, 0.4371, 0.4040), sign=-1)
    x = torch.full((1, 3, 2, 2), 200.0)
    x[0, 1] = float("nan")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = shift(x)
    assert out.dtype == torch.float32
    assert out[0, 0, 0, 0] == pytest.approx(200 - 255 * 0.4488, abs=1e-4)
    assert torch.isfinite(out[0, [0, 2]]).all()
    assert torch.isnan(out[0, 1]).all()


def test_the_mean_keeps_the_memory_format():
    shift = MeanShift(255.0, (0.5,) * 3, sign=1)
    x = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert shift(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("key", "factor"), [("sub_mean.weight", 2.0), ("add_mean.bias", 1.1)])
def test_another_normalisation_is_refused(key, factor):
    model = create_model("edsr-baseline", scale=2, **SMALL)
    state = model.state_dict()
    state[key] = state[key] * factor
    with pytest.raises(ConfigError, match=key):
        model.load_state_dict(state)


def test_wrong_scales_and_shapes():
    model = create_model("edsr-baseline", scale=2, **SMALL)
    with pytest.raises(ConfigError, match="scale 2, not 3"):
        model(torch.rand(1, 3, 4, 4), 3)
    with pytest.raises(ConfigError, match="scale 2, not 4"):
        model.halo(4)
    with pytest.raises(InputError, match=r"\(N, 3, H, W\), not \(1, 1, 4, 4\)"):
        model(torch.rand(1, 1, 4, 4))
    several = create_model("mdsr-baseline", **SMALL)
    with pytest.raises(ConfigError, match="2, 3, 4; give one"):
        several(torch.rand(1, 3, 4, 4))
    with pytest.raises(ConfigError, match="not 8"):
        several.halo(8)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_interpolation_keeps_flat_images_and_ramps(name):
    model = create_model(name, channels=2)
    flat = torch.full((1, 2, 7, 9), 130.0)
    assert torch.allclose(model(flat, 3), torch.full((1, 2, 21, 27), 130.0), atol=1e-3)
    ramp = torch.arange(20.0).expand(1, 2, 20, 20)
    expected = (torch.arange(40.0) + 0.5) / 2 - 0.5
    inner = slice(8, 32)
    assert torch.allclose(model(ramp, 2)[0, 0, 20, inner], expected[inner], atol=1e-4)


def test_interpolation_ignores_autocast():
    model, x = create_model("bicubic"), torch.rand(1, 3, 8, 8) * 255
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(x, 2)
    assert torch.equal(mixed, model(x, 2))
