"""Each degradation against a closed form."""

from __future__ import annotations

import io
import math

import numpy as np
import PIL.Image
import pytest

from rayscale.degradations import Degradation, draw
from rayscale.degradations.photograph import compress, gaussian
from rayscale.degradations.sensors import SENSORS
from rayscale.degradations.stage import Limits


def wave(size: int, frequency: float, phase: float = 0.0) -> np.ndarray:
    """A cosine over columns ``(size, size, 1)``; ``frequency`` in cycles per pixel, positions are those of pixel centres."""
    x = np.arange(size) + 0.5
    return np.tile(np.cos(2 * np.pi * frequency * x + phase)[None, :, None], (size, 1, 1))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("gain", [0.15, 0.3, 0.5])
def test_mtf_has_its_gain_at_nyquist(scale: int, gain: float) -> None:
    """Half a cycle per LR pixel, with its crests at the centres of LR pixels: +g, -g, +g, ..."""
    hr = wave(64 * scale, 1 / (2 * scale), -np.pi / 2)
    for pixels in (hr, hr.transpose(1, 0, 2)):
        lr = np.abs(Degradation.parse(f"mtf:gain={gain}").apply(pixels, scale))[8:-8, 8:-8]
        np.testing.assert_allclose(lr, gain, atol=1e-9)


@pytest.mark.parametrize("scale", [2, 4])
def test_mtf_is_a_gaussian_at_all_frequencies(scale: int) -> None:
    """``g ** (4 f^2)``, f in cycles per LR pixel; the samples of the kernel alias a little of it."""
    for f in (0.1, 0.2, 0.3, 0.4):
        lr = Degradation.parse("mtf:gain=0.25").apply(wave(100 * scale, f / scale), scale)[10]
        seen = lr[10:-10, 0]
        expected = wave(100, f)[10, 10:-10, 0] * 0.25 ** (4 * f * f)
        np.testing.assert_allclose(seen, expected, atol=2e-3)


def test_mtf_of_a_sensor_is_that_of_each_band() -> None:
    gains = SENSORS["sentinel-2"].gains
    hr = np.repeat(wave(128, 0.25, -np.pi / 2), 3, axis=2)
    lr = Degradation.parse("mtf:sensor=sentinel-2,bands=B4/B3/B11").apply(hr, 2)
    seen = np.abs(lr[8:-8, 8:-8]).mean(axis=(0, 1))
    np.testing.assert_allclose(seen, [gains["B4"], gains["B3"], gains["B11"]], atol=1e-9)


def test_the_gain_of_oli_is_that_of_its_required_edge_slope() -> None:
    """The edge of a Gaussian rises by 1 / (s sqrt(2 pi)) per metre."""
    for slope, pixel in ((0.027, 30.0), (0.054, 15.0)):
        deviation = 1 / (slope * math.sqrt(2 * math.pi))
        gain = math.exp(-2 * (math.pi * deviation / (2 * pixel)) ** 2)
        assert gain == pytest.approx(0.30, abs=0.005)
    assert set(SENSORS["landsat-oli"].gains.values()) == {0.30}


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("side", [24, 30])
def test_kspace_samples_a_band_limited_image_exactly(scale: int, side: int) -> None:
    """The trigonometric polynomial at the centres of the LR pixels, on both axes."""
    random = np.random.default_rng(0)
    size = side * scale

    def polynomial(count: int) -> np.ndarray:
        at = (np.arange(count) + 0.5) / count
        values = np.zeros((count, count))
        for ky, kx, amplitude, phase in terms:
            values += amplitude * np.cos(2 * np.pi * (ky * at[:, None] + kx * at[None]) + phase)
        return values[..., None]

    highest = (side - 1) // 2
    terms = [
        (int(ky), int(kx), *random.normal(size=2))
        for ky, kx in random.integers(-highest, highest + 1, (20, 2))
    ]
    lr = Degradation.parse("kspace").apply(polynomial(size), scale)
    np.testing.assert_allclose(lr, polynomial(side), atol=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_kspace_leaves_nothing_above_the_cut(scale: int) -> None:
    """Where bicubic folds what lies above into the LR image."""
    size = 24 * scale
    above = sum(wave(size, k / size, k) for k in range(13, size // 2))
    assert np.abs(Degradation.parse("kspace").apply(above, scale)).max() < 1e-12
    assert np.abs(Degradation().apply(above, scale)).max() > 0.05


def test_blur_has_the_moments_of_its_ellipse() -> None:
    """Of a point: the covariance of a Gaussian turned by the angle, through the sampled kernel."""
    kernel = gaussian((3.0, 1.2), math.radians(30))
    radius = kernel.shape[0] // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    turn = np.array([[math.cos(a := math.radians(30)), math.sin(a)], [-math.sin(a), math.cos(a)]])
    expected = turn.T @ np.diag([9.0, 1.44]) @ turn
    seen = [[(kernel * p * q).sum() for q in (x, y)] for p in (x, y)]
    np.testing.assert_allclose(seen, expected, rtol=0.01, atol=0.01)
    assert kernel.sum() == pytest.approx(1)


def test_isotropic_blur_damps_a_wave_as_its_width_says() -> None:
    degradation = Degradation.parse(
        "blur_noise_jpeg:blur=1.5..1.5,isotropic=1,noise=0..0,jpeg=none"
    )
    hr = wave(120, 0.05)
    lr = degradation.apply(hr, 2, draw(0, 0, 0))[10:-10, 10:-10]
    gain = math.exp(-2 * (math.pi * 1.5 * 0.05) ** 2)
    sharp = Degradation().apply(hr, 2)[10:-10, 10:-10]
    np.testing.assert_allclose(lr, gain * sharp, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("grey", [0, 1])
def test_noise_has_its_deviation_in_the_range_of_the_type(dtype: type, grey: int) -> None:
    text = f"blur_noise_jpeg:blur=0..0,noise=10..10,grey={grey},jpeg=none"
    limits = Limits.of(np.dtype(dtype))
    flat = np.full((400, 400, 3), limits.white / 2, dtype)
    lr = Degradation.parse(text).apply(flat, 2, draw(1, 2, 3)).astype(np.float64)
    deviations = (lr - limits.white / 2) * 255 / limits.range
    assert deviations.std() == pytest.approx(10, rel=0.01)
    assert abs(deviations.mean()) < 0.6
    correlation = np.corrcoef(deviations[..., 0].ravel(), deviations[..., 1].ravel())[0, 1]
    assert correlation == pytest.approx(grey, abs=0.02)


def test_levels_and_qualities_are_drawn_uniformly() -> None:
    degradation = Degradation.parse("blur_noise_jpeg:blur=0..0,noise=4..20,grey=0,jpeg=none")
    flat = np.full((64, 64, 1), 0.5)
    seen = [degradation.apply(flat, 2, draw(0, step, 0)).std() * 255 for step in range(400)]
    assert min(seen) > 3.5
    assert max(seen) < 21
    assert np.mean(seen) == pytest.approx(12, abs=0.8)
    assert np.std(seen) == pytest.approx(16 / math.sqrt(12), rel=0.1)


def test_jpeg_is_that_of_an_encoder_at_the_quality() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (32, 40, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "JPEG", quality=40)
    theirs = np.asarray(PIL.Image.open(buffer))
    ours = compress(picture.astype(float), 40, Limits(0, 255))
    assert np.array_equal(ours, theirs)
    errors = [
        np.abs(compress(picture.astype(float), q, Limits(0, 255)) - picture).mean()
        for q in (20, 60, 95)
    ]
    assert errors == sorted(errors, reverse=True)


def test_jpeg_of_16_bits_and_of_many_bands_keeps_range_and_bands_apart() -> None:
    smooth = np.linspace(0, 65535, 64)[None, :, None] * np.array([1.0, 0.5, 0.25, 0.0])
    back = compress(np.tile(smooth, (64, 1, 1)), 95, Limits(0, 65535))
    assert back.shape == (64, 64, 4)
    assert np.abs(back - smooth).max() < 65535 / 255 * 4
    assert back[..., 3].max() == 0
