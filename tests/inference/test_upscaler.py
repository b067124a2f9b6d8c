from __future__ import annotations

import numpy as np
import pytest
import torch

from rayscale.errors import ConfigError, InputError, RayscaleError, TooLargeError
from rayscale.imaging import Image
from rayscale.imaging.levels import Levels
from rayscale.inference import Upscaler
from rayscale.models.registry import create_model
from rayscale.resampling import enlarge
from rayscale.settings import get_settings


def _noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(
        0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True
    )


@pytest.fixture(scope="module")
def baseline():
    """EDSR-baseline with He-like weights, which carry far more signal to the rim than the default ones."""
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2)
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and name.startswith("body"):
            torch.nn.init.kaiming_normal_(parameter)
            parameter.data.mul_(0.2)
    return model


def test_tiled_equals_whole_for_edsr_baseline(baseline):
    x = torch.from_numpy(_noise(1, 3, 150, 141)).float()
    whole = Upscaler(baseline, 2, tile=4096, precision="float32").predict(x)
    tiled = Upscaler(baseline, 2, tile=48, precision="float32").predict(x)
    assert baseline.halo(2) == 36
    scale = 255 / whole.abs().max()
    assert (whole - tiled).abs().max() * scale <= 1e-3
    pixels = _noise(150, 141, 3)
    np.testing.assert_array_equal(
        Upscaler(baseline, 2, tile=48, precision="float32").upscale_pixels(pixels),
        Upscaler(baseline, 2, tile=4096, precision="float32").upscale_pixels(pixels),
    )


def test_a_smaller_halo_would_show(baseline, monkeypatch):
    """The comparison above can fail: with half the halo it does."""
    x = torch.from_numpy(_noise(1, 3, 100, 100)).float()
    whole = Upscaler(baseline, 2, tile=4096, precision="float32").predict(x)
    monkeypatch.setattr(type(baseline), "halo", lambda self, scale: 4)
    tiled = Upscaler(baseline, 2, tile=32, precision="float32").predict(x)
    assert (whole - tiled).abs().max() * 255 / whole.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["edsr-baseline", "mdsr-baseline"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_tiles_meet_at_every_scale(name, scale):
    torch.manual_seed(1)
    model = create_model(name, scale=scale, blocks=2, filters=8)
    x = torch.rand(2, 3, 61, 50) * 255
    whole = Upscaler(model, scale, tile=4096, precision="float32").predict(x)
    tiled = Upscaler(model, scale, tile=16, precision="float32").predict(x)
    assert whole.shape == (2, 3, 61 * scale, 50 * scale)
    torch.testing.assert_close(tiled, whole, atol=1e-3, rtol=0)


def test_bicubic_keeps_container_alpha_depth_and_printed_size():
    image = Image(
        _noise(20, 30, 3, dtype=np.uint16),
        alpha=_noise(20, 30, dtype=np.uint16),
        dpi=(300.0, 300.0),
        icc=b"profile",
    )
    larger = Upscaler(create_model("bicubic", scale=2), 2).upscale(image)
    assert (larger.height, larger.width, larger.channels) == (40, 60, 3)
    assert larger.dpi == (600.0, 600.0)
    assert larger.icc == b"profile"
    assert larger.pixels.dtype == np.uint16
    difference = larger.pixels.astype(int) - enlarge(image.pixels, 2)
    assert np.abs(difference).max() <= 1  # float32 against float64
    np.testing.assert_array_equal(larger.alpha, enlarge(image.alpha, 2))


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_interpolation_takes_any_number_of_bands(channels):
    pixels = _noise(12, 10, channels)
    assert Upscaler(create_model("bilinear", scale=3), 3).upscale_pixels(pixels).shape == (
        36,
        30,
        channels,
    )


def test_a_one_channel_model_runs_band_by_band():
    model = create_model("edsr-baseline", scale=2, channels=1, blocks=1, filters=4)
    upscaler = Upscaler(model, 2)
    pixels = _noise(16, 16, 5)
    together = upscaler.upscale_pixels(pixels)
    for band in range(5):
        np.testing.assert_array_equal(
            together[..., [band]], upscaler.upscale_pixels(pixels[..., [band]])
        )


def test_other_channel_counts_are_refused_with_both_numbers():
    model = create_model("edsr-baseline", scale=2, channels=3, blocks=1, filters=4)
    with pytest.raises(InputError, match=r"4 channels.*made for 3"):
        Upscaler(model, 2).upscale_pixels(_noise(8, 8, 4))


def test_deep_pixels_never_compute_in_bfloat16():
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, blocks=2, filters=8)
    pixels = _noise(24, 24, 3, dtype=np.uint16)
    np.testing.assert_array_equal(
        Upscaler(model, 2, precision="bfloat16").upscale_pixels(pixels),
        Upscaler(model, 2, precision="float32").upscale_pixels(pixels),
    )
    shallow = (pixels >> 8).astype(np.uint8)
    narrow = Upscaler(model, 2, precision="bfloat16").predict(
        torch.rand(1, 3, 24, 24) * 255, bits=8
    )
    assert narrow.dtype == torch.float32
    assert shallow.shape == (24, 24, 3)


def test_non_finite_output_is_an_error_not_a_black_image():
    model = create_model("edsr-baseline", scale=2, blocks=1, filters=4)
    with torch.no_grad():
        next(iter(model.head.parameters())).fill_(float("nan"))
    with pytest.raises(RayscaleError, match="non-finite"):
        Upscaler(model, 2).upscale_pixels(_noise(8, 8, 3))


def test_the_output_limit_names_both_sizes(monkeypatch):
    monkeypatch.setattr(get_settings(), "max_output_pixels", 1000)
    with pytest.raises(TooLargeError, match=r"20x20.*40x40.*1000.*RAYSCALE_MAX_OUTPUT_PIXELS"):
        Upscaler(create_model("bicubic", scale=2), 2).upscale_pixels(_noise(20, 20, 3))


def test_wrong_settings_are_refused_early():
    model = create_model("edsr-baseline", scale=2, blocks=1, filters=4)
    with pytest.raises(ConfigError, match="scale 3"):
        Upscaler(model, 3)
    with pytest.raises(ConfigError, match="float99"):
        Upscaler(model, 2, precision="float99")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tile 3"):
        Upscaler(model, 2, tile=3)


def test_measurements_need_levels_and_run_in_float32(monkeypatch):
    upscaler = Upscaler(create_model("bicubic", scale=2), 2)
    depths = np.linspace(-7000, -20, 80, dtype=np.float32).reshape(8, 10, 1)
    with pytest.raises(InputError, match="float32"):
        upscaler.upscale_pixels(depths)
    levels = Levels.of_data(depths.min(), depths.max(), "test")
    asked = []
    predict = Upscaler.predict
    monkeypatch.setattr(
        Upscaler,
        "predict",
        lambda self, x, *, bits: asked.append(bits) or predict(self, x, bits=bits),
    )
    result = upscaler.upscale(Image(depths, "tiff", levels=levels))
    np.testing.assert_allclose(result.pixels, enlarge(depths, 2), atol=7000 * 1e-6)
    assert asked == [16]


def test_slices_of_a_volume_are_enlarged_one_by_one(monkeypatch):
    upscaler = Upscaler(create_model("bicubic", scale=2), 2)
    volume = _noise(3, 8, 10, 1)
    result = upscaler.upscale(Image(volume))
    assert result.frames == 3
    for index in range(3):
        np.testing.assert_array_equal(result.pixels[index], upscaler.upscale_pixels(volume[index]))
    monkeypatch.setattr(get_settings(), "max_output_pixels", 900)
    with pytest.raises(TooLargeError, match="3 slices"):
        upscaler.upscale(Image(volume))
