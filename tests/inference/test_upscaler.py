from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rayscale.errors import ConfigError, InputError, NonFiniteOutputError, TooLargeError
from rayscale.imaging import Image
from rayscale.imaging.levels import Levels
from rayscale.inference import Predictor, Upscaler
from rayscale.inference.packs import upscale_pack
from rayscale.inference.tiles import Span
from rayscale.models.network import SuperResolver
from rayscale.models.systems import SYSTEMS, create_model
from rayscale.options import Options
from rayscale.resampling import enlarge, exact_scale
from rayscale.settings import get_settings


def _noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(
        0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True
    )


@torch.inference_mode()
def _whole(model: SuperResolver, x: torch.Tensor, scale: float) -> torch.Tensor:
    """The network on the image at once."""
    enlarged: torch.Tensor = model.eval()(x, scale)
    return enlarged


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
    x = torch.from_numpy(_noise(1, 3, 60, 121)).float()
    whole = _whole(baseline, x, 2)
    tiled = Upscaler(baseline, Options(scale=2, tile=32, precision="float32")).predictor.predict(x)
    assert baseline.halo(2) == 36
    scale = 255 / whole.abs().max()
    assert (whole - tiled).abs().max() * scale <= 1e-3
    pixels = _noise(60, 121, 3)
    np.testing.assert_array_equal(
        Upscaler(baseline, Options(scale=2, tile=32, precision="float32")).upscale_pixels(pixels),
        Upscaler(baseline, Options(scale=2, tile=4096, precision="float32")).upscale_pixels(pixels),
    )


def test_a_smaller_halo_would_show(baseline, monkeypatch):
    """The comparison above can fail: with half the halo it does."""
    x = torch.from_numpy(_noise(1, 3, 100, 100)).float()
    whole = _whole(baseline, x, 2)
    monkeypatch.setattr(type(baseline), "halo", lambda self, scale: 4)
    tiled = Upscaler(baseline, Options(scale=2, tile=32, precision="float32")).predictor.predict(x)
    assert (whole - tiled).abs().max() * 255 / whole.abs().max() > 1e-3


SCALES = (2, 3, 4, 1.5, 2.4, 3.33)
ZOO = [
    (system.name, scale)
    for system in SYSTEMS.values()
    for scale in SCALES
    if scale in system.scales or system.network.scale_range is not None
    # A third of a million phases, each with weights of its own: half a minute. 2.4 and 1.5 have the same code.
    if (system.name, scale) != ("meta-edsr", 3.33)
]


def _small(name: str, scale: float) -> SuperResolver:
    """A narrow network of the system whose weights carry the signal through every layer."""
    torch.manual_seed(1)
    system = SYSTEMS[name]
    sizes = {"filters": 8, "blocks": 3}
    options = {key: value for key, value in sizes.items() if key in system.options}
    model = create_model(name, scale=scale if scale in system.scales else 2, **options)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter, a=1)
    return model


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "scale"), ZOO)
def test_tiles_equal_the_whole_for_every_system_and_scale(name, scale):
    model = _small(name, scale)
    whole = Upscaler(model, Options(scale=scale, tile=4096, precision="float32"))
    tiled = Upscaler(model, Options(scale=scale, tile=16, precision="float32"))
    p, q = exact_scale(scale).as_integer_ratio()
    # Tiles of 3.33 are 100 pixels at least; the last image is smaller than any tile or halo.
    for height, width in ((7, 2 * q + 61), (41, 26), (3, 5)):
        pixels = _noise(height, width, model.channels)
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 * model.spec.value_range
        expected, found = _whole(model, x, scale), tiled.predictor.predict(x)
        assert expected.shape[2:] == (height * p // q, width * p // q)
        assert (found - expected).abs().max() * 255 <= 1e-3 * expected.abs().max()
        apart = tiled.upscale_pixels(pixels).astype(int) - whole.upscale_pixels(pixels)
        # Half a grey level may be rounded either way; nothing else differs.
        assert np.abs(apart).max() <= 1
        assert np.count_nonzero(apart) <= 1 + 0.01 * apart.size


@pytest.mark.parametrize("name", ["vdsr", "meta-edsr"])
def test_a_tile_off_the_grid_would_show(name, monkeypatch):
    """The comparison above can fail: with tiles that begin anywhere it does."""
    model = _small(name, 1.5)
    x = torch.rand(1, model.channels, 7, 90) * model.spec.value_range
    whole, cut = _whole(model, x, 1.5), Span.cut

    def shifted(*arguments: int) -> list[Span]:
        return [replace(span, low=max(span.low - 1, 0)) for span in cut(*arguments)]

    monkeypatch.setattr(Span, "cut", shifted)
    tiled = Upscaler(model, Options(scale=1.5, tile=16, precision="float32")).predictor.predict(x)
    assert (whole - tiled).abs().max() > 1e-2 * whole.abs().max()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("scale", [2, 1.5, 2.4])
@pytest.mark.parametrize("name", ["vdsr", "meta-edsr", "meta-srgan", "bicubic"])
def test_the_ensemble_is_equivariant(name, scale):
    ensemble = Upscaler(
        _small(name, scale),
        Options(scale=scale, tile=16, precision="float32", ensemble=True),
    )
    model = ensemble.predictor.model
    x = torch.rand(1, model.channels, 10, 30) * model.spec.value_range
    plain = ensemble.predictor.predict(x)
    for flip in ((-1,), (-2,), (-2, -1)):
        turned = ensemble.predictor.predict(torch.flip(x, flip).transpose(-2, -1)).transpose(-2, -1)
        assert (torch.flip(turned, flip) - plain).abs().max() <= 1e-4 * plain.abs().max()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("scale", [1.5, 2.4])
@pytest.mark.parametrize("name", ["vdsr", "meta-srgan"])
def test_the_ensemble_takes_sides_that_are_no_multiples(name, scale):
    model = _small(name, scale)
    whole = Upscaler(model, Options(scale=scale, tile=4096, precision="float32", ensemble=True))
    tiled = Upscaler(model, Options(scale=scale, tile=16, precision="float32", ensemble=True))
    x = torch.rand(1, 1, 7, 33)
    expected = whole.predictor.predict(x)
    assert expected.shape[2:] == (int(7 * scale), int(33 * scale))
    assert (tiled.predictor.predict(x) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("scale", [2, 1.5, 2.4, 3.33])
def test_the_ensemble_of_interpolation_is_interpolation(scale):
    """It is equivariant and repeats edges itself: the average over the eight must not move anything."""
    model, x = create_model("bicubic"), torch.rand(1, 3, 13, 17) * 255
    alone = Upscaler(model, Options(scale=scale)).predictor.predict(x)
    assert (
        Upscaler(model, Options(scale=scale, ensemble=True)).predictor.predict(x) - alone
    ).abs().max() <= 1e-2


def test_a_fractional_scale_grows_alpha_and_printed_size_alike():
    image = Image(_noise(7, 9, 3), alpha=_noise(7, 9), dpi=(100.0, 100.0))
    larger = Upscaler(create_model("bicubic"), Options(scale=2.5)).upscale(image)
    assert (larger.height, larger.width) == (17, 22)
    assert larger.alpha is not None
    assert larger.alpha.shape == (17, 22)
    assert larger.dpi == (250.0, 250.0)


def test_a_whole_scale_is_an_integer_however_it_is_given():
    facts = Upscaler(create_model("vdsr", filters=2), Options(scale=2.0)).describe()
    assert repr(facts["scale"]) == "2"
    facts = Upscaler(create_model("vdsr", filters=2), Options(scale=2.50)).describe()
    assert repr(facts["scale"]) == "2.5"


def test_a_luma_network_takes_colour_at_once_and_bands_one_by_one():
    upscaler = Upscaler(_small("vdsr", 2), Options(scale=2, precision="float32"))
    assert upscaler.upscale_pixels(_noise(9, 8, 3)).shape == (18, 16, 3)
    bands = _noise(9, 8, 4)
    together = upscaler.upscale_pixels(bands)
    for band in range(4):
        np.testing.assert_array_equal(
            together[..., [band]], upscaler.upscale_pixels(bands[..., [band]])
        )


def test_bicubic_keeps_container_alpha_depth_and_printed_size():
    image = Image(
        _noise(20, 30, 3, dtype=np.uint16),
        alpha=_noise(20, 30, dtype=np.uint16),
        dpi=(300.0, 300.0),
        icc=b"profile",
    )
    larger = Upscaler(create_model("bicubic", scale=2), Options(scale=2)).upscale(image)
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
    assert Upscaler(create_model("bilinear", scale=3), Options(scale=3)).upscale_pixels(
        pixels
    ).shape == (
        36,
        30,
        channels,
    )


def test_a_one_channel_model_runs_band_by_band():
    model = create_model("edsr-baseline", scale=2, channels=1, blocks=1, filters=4)
    upscaler = Upscaler(model, Options(scale=2))
    pixels = _noise(16, 16, 5)
    together = upscaler.upscale_pixels(pixels)
    for band in range(5):
        np.testing.assert_array_equal(
            together[..., [band]], upscaler.upscale_pixels(pixels[..., [band]])
        )


def test_other_channel_counts_are_refused_with_both_numbers():
    model = create_model("edsr-baseline", scale=2, channels=3, blocks=1, filters=4)
    with pytest.raises(InputError, match=r"4 channels.*made for 3"):
        Upscaler(model, Options(scale=2)).upscale_pixels(_noise(8, 8, 4))


def test_deep_pixels_never_compute_in_bfloat16():
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, blocks=2, filters=8)
    pixels = _noise(24, 24, 3, dtype=np.uint16)
    np.testing.assert_array_equal(
        Upscaler(model, Options(scale=2, precision="bfloat16")).upscale_pixels(pixels),
        Upscaler(model, Options(scale=2, precision="float32")).upscale_pixels(pixels),
    )


def test_eight_bit_pixels_compute_in_bfloat16_when_it_is_asked_for():
    """Otherwise its absence above would say nothing."""
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, blocks=2, filters=8)
    x = torch.rand(1, 3, 24, 24) * 255
    narrow, wide = (
        Upscaler(model, Options(scale=2, precision=precision)).predictor.predict(x, bits=8)
        for precision in ("bfloat16", "float32")
    )
    assert narrow.dtype == torch.float32
    assert not torch.equal(narrow, wide)
    assert (narrow - wide).abs().max() < 0.02 * wide.abs().max()


def test_non_finite_output_is_an_error_not_a_black_image():
    model = create_model("edsr-baseline", scale=2, blocks=1, filters=4)
    with torch.no_grad():
        next(iter(model.head.parameters())).fill_(float("nan"))
    with pytest.raises(NonFiniteOutputError, match="non-finite"):
        Upscaler(model, Options(scale=2)).upscale_pixels(_noise(8, 8, 3))


def test_the_output_limit_names_both_sizes(monkeypatch):
    monkeypatch.setattr(get_settings(), "max_output_pixels", 1000)
    with pytest.raises(TooLargeError, match=r"20x20.*40x40.*1000.*RAYSCALE_MAX_OUTPUT_PIXELS"):
        Upscaler(create_model("bicubic", scale=2), Options(scale=2)).upscale_pixels(
            _noise(20, 20, 3)
        )
    with pytest.raises(TooLargeError, match=r"x2.5 make 50x47, over"):
        Upscaler(create_model("bicubic"), Options(scale=2.5)).upscale_pixels(_noise(19, 20, 3))


def test_wrong_settings_are_refused_early():
    model = create_model("edsr-baseline", scale=2, blocks=1, filters=4)
    with pytest.raises(ConfigError, match="serves the scale 2, not 3"):
        Upscaler(model, Options(scale=3))
    with pytest.raises(ConfigError, match="float99"):
        Upscaler(model, Options(scale=2, precision="float99"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tile must be at least 16, not 3"):
        Upscaler(model, Options(scale=2, tile=3))


def test_measurements_need_levels_and_run_in_float32(monkeypatch):
    upscaler = Upscaler(create_model("bicubic", scale=2), Options(scale=2))
    depths = np.linspace(-7000, -20, 80, dtype=np.float32).reshape(8, 10, 1)
    with pytest.raises(InputError, match="float32"):
        upscaler.upscale_pixels(depths)
    levels = Levels.of_data(depths.min(), depths.max(), "test")
    asked = []
    parts = Predictor.parts
    monkeypatch.setattr(
        Predictor,
        "parts",
        lambda self, channels, bits: asked.append(bits) or parts(self, channels, bits),
    )
    result = upscaler.upscale(Image(depths, "tiff", levels=levels))
    np.testing.assert_allclose(result.pixels, enlarge(depths, 2), atol=7000 * 1e-6)
    assert asked == [16]


def test_slices_of_a_volume_are_enlarged_one_by_one(monkeypatch):
    upscaler = Upscaler(create_model("bicubic", scale=2), Options(scale=2))
    volume = _noise(3, 8, 10, 1)
    result = upscaler.upscale(Image(volume))
    assert result.frames == 3
    for index in range(3):
        np.testing.assert_array_equal(result.pixels[index], upscaler.upscale_pixels(volume[index]))
    monkeypatch.setattr(get_settings(), "max_output_pixels", 900)
    with pytest.raises(TooLargeError, match="3 slices"):
        upscaler.upscale(Image(volume))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["edsr-baseline", "srcnn", "bicubic"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_many_in_a_batch_are_what_each_is_alone(name, dtype, monkeypatch):
    upscaler = Upscaler(_small(name, 2), Options(scale=2, precision="float32"))
    images = [
        Image(
            _noise(13, 11, 3, dtype=dtype) ^ dtype(i),
            alpha=_noise(13, 11, dtype=dtype),
            dpi=(i + 1, 2),
        )
        for i in range(5)
    ]
    alone = [upscaler.upscale(image) for image in images]
    calls = []
    predict = Predictor.predict
    monkeypatch.setattr(
        Predictor,
        "predict",
        lambda self, x, *, bits: calls.append(len(x)) or predict(self, x, bits=bits),
    )
    for one, other in zip(alone, upscale_pack(upscaler, images), strict=True):
        # At a half, rounding may go either way.
        assert np.abs(one.pixels.astype(int) - other.pixels.astype(int)).max() <= 1
        assert (one.pixels != other.pixels).mean() < 0.01
        np.testing.assert_array_equal(one.alpha, other.alpha)
        assert one.dpi == other.dpi
    # Pictures of 16 bits have levels of their own, so none shares its way with another.
    assert set(calls) <= ({5} if dtype is np.uint8 else {1})
    assert calls or (name, dtype) == ("bicubic", np.uint16)


def test_a_batch_of_unlike_pictures_is_refused():
    upscaler = Upscaler(create_model("bicubic", scale=2), Options(scale=2))
    plain = Image(_noise(8, 10, 3))
    with pytest.raises(InputError, match="one shape"):
        upscale_pack(upscaler, [plain, Image(_noise(10, 8, 3))])
    measured = Image(plain.pixels, levels=Levels.of_type(plain.pixels.dtype))
    with pytest.raises(InputError, match="levels"):
        upscale_pack(upscaler, [plain, measured])


def test_one_bad_picture_does_not_spoil_its_batch(monkeypatch):
    upscaler = Upscaler(create_model("bicubic", scale=2), Options(scale=2))
    images = [Image(_noise(8, 10, 3)), Image(np.zeros((8, 10, 3), np.uint8))]
    predict = Predictor.predict

    def overflowing(self, x, *, bits):
        y = predict(self, x, bits=bits)
        return y * np.inf if len(x) > 1 else y

    monkeypatch.setattr(Predictor, "predict", overflowing)
    for image, result in zip(images, upscale_pack(upscaler, images), strict=True):
        np.testing.assert_array_equal(result.pixels, upscaler.upscale(image).pixels)
