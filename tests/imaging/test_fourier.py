"""Ring correlation against its definition and theory, displacement against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from rayscale.imaging.fourier import RingCorrelation, displacement, ring_correlation


@pytest.fixture
def rng():
    """Random numbers that are the same for a test whatever ran before it."""
    return np.random.default_rng(3)


def test_the_curve_is_the_definition_ring_by_ring(rng):
    a, b = rng.random((2, 20, 26, 2))
    window = np.outer(np.hanning(22)[1:-1], np.hanning(28)[1:-1])[..., None]
    first, second = (np.fft.fft2((x - x.mean((0, 1))) * window, axes=(0, 1)) for x in (a, b))
    rows, columns = np.meshgrid(np.fft.fftfreq(20), np.fft.fftfreq(26), indexing="ij")
    expected = []
    for number in range(1, 11):
        inside = np.abs(np.sqrt(rows**2 + columns**2) * 20 - number) < 0.5
        u, v = first[inside], second[inside]
        norm = np.sqrt((abs(u) ** 2).sum() * (abs(v) ** 2).sum())
        expected.append((u * v.conj()).sum().real / norm)
    curve = ring_correlation(a, b)
    np.testing.assert_allclose(curve.frequency, np.arange(1, 11) / 20)
    np.testing.assert_allclose(curve.correlation, expected)


def test_noise_lowers_the_curve_as_theory_says(rng):
    signal = rng.normal(size=(256, 256, 1))
    a, b = (signal + rng.normal(0, 0.5, signal.shape) for _ in range(2))
    # FRC = SNR / (SNR + 1) for two pictures of the same signal with noise of their own.
    assert ring_correlation(a, b).correlation[20:].mean() == pytest.approx(4 / 5, abs=0.01)


@pytest.mark.parametrize("cutoff", [0.1, 0.25])
def test_the_resolution_is_where_common_detail_ends(cutoff, rng):
    shape = (256, 200, 1)
    radius = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(200)[None])[..., None]
    shared, own, other = rng.normal(size=(3, *shape))

    def picture(detail):
        spectrum = np.where(
            radius < cutoff, *(np.fft.fft2(x, axes=(0, 1)) for x in (shared, detail))
        )
        return np.fft.ifft2(spectrum, axes=(0, 1)).real

    curve = ring_correlation(picture(own), picture(other))
    assert curve.resolution == pytest.approx(1 / cutoff, rel=0.05)


def test_the_crossing_is_interpolated():
    curve = RingCorrelation(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2 / 7, 0.0]))
    assert curve.resolution == pytest.approx(1 / 0.25)


def test_equal_pictures_share_everything(rng):
    picture = rng.integers(0, 256, (31, 40, 3), dtype=np.uint8)
    curve = ring_correlation(picture, picture)
    np.testing.assert_allclose(curve.correlation, 1)
    assert curve.resolution == 2
    flat = np.full((16, 16, 1), 9, np.uint8)
    assert ring_correlation(flat, flat).resolution == 2
    # Nothing in common: no detail is shared, however coarse.
    assert ring_correlation(flat, picture[:16, :16, :1]).resolution == 16


@pytest.mark.parametrize("moved_by", [(0, 0), (3, -2), (-0.37, 1.64), (20.25, -17.5)])
def test_displacement_is_that_of_scikit_image(moved_by, rng):
    picture = ndimage.gaussian_filter(rng.random((64, 81)), 1.5)
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(picture), moved_by)).real
    expected, _, _ = phase_cross_correlation(picture, moved, upsample_factor=100)
    found = displacement(picture[..., None], moved[..., None])
    assert found == pytest.approx(tuple(expected), abs=0.011)
    assert found == pytest.approx(tuple(-np.array(moved_by)), abs=0.011)
