"""cPSNR, NRMSE, SAM and ERGAS against closed forms, scikit-image and loops over their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio

from rayscale.errors import InputError
from rayscale.imaging.fidelity import cpsnr, ergas, nrmse, sam


@pytest.fixture
def bands():
    """Makes pictures of random values, each another, the same ones whatever test ran before."""
    rng = np.random.default_rng(7)

    def make(height=24, width=31, channels=4, dtype=np.uint16):
        high = {np.uint8: 200, np.uint16: 9000}.get(dtype, 1)
        if dtype in (np.float32, np.float64):
            return rng.random((height, width, channels)).astype(dtype)
        return rng.integers(1, high, (height, width, channels), dtype=dtype)

    return make


def defined_cpsnr(sr, hr):
    """The definition, one window at a time, as the challenge's own scorer goes through them."""
    sr, hr = (values.astype(float) / np.iinfo(values.dtype).max for values in (sr, hr))
    rows, columns = sr.shape[0] - 6, sr.shape[1] - 6
    scores = []
    for u in range(7):
        for v in range(7):
            window = hr[u : u + rows, v : v + columns]
            cut = sr[3 : 3 + rows, 3 : 3 + columns]
            bias = (window - cut).sum() / window.size
            scores.append(-10 * math.log10(((window - (cut + bias)) ** 2).mean()))
    return max(scores)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cpsnr_is_that_of_the_proba_v_challenge(dtype, bands):
    hr = bands(channels=1, dtype=dtype)
    sr = np.roll(hr, (2, -1), (0, 1)) // 2 + dtype(20)
    assert cpsnr(sr, hr) == pytest.approx(defined_cpsnr(sr, hr))


def test_cpsnr_forgives_brightness_per_band_and_up_to_three_pixels(bands):
    hr = bands()
    brighter = hr + np.array([5, 0, 700, 9], np.uint16)
    assert cpsnr(np.roll(brighter, (3, -3), (0, 1)), hr) == math.inf
    assert cpsnr(np.roll(hr, 4, 0), hr) < 30


def test_cpsnr_of_floats_has_white_at_one():
    hr = np.zeros((20, 20, 1), np.float32)
    sr = (np.indices((20, 20)).sum(0)[..., None] % 2 * 0.2).astype(np.float32)  # +-0.1
    assert cpsnr(sr, hr) == pytest.approx(peak_signal_noise_ratio(hr, hr + 0.1, data_range=1))


def test_nrmse_is_that_of_scikit_image(bands):
    for dtype in (np.uint8, np.uint16, np.float32):
        sr, hr = bands(dtype=dtype), bands(dtype=dtype)
        assert nrmse(sr, hr) == pytest.approx(normalized_root_mse(hr.astype(float), sr))


def test_sam_of_known_angles():
    hr = np.zeros((2, 2, 3), np.uint8)
    sr = hr.copy()
    hr[0, 0], sr[0, 0] = (10, 0, 0), (0, 10, 0)  # 90 degrees
    hr[0, 1], sr[0, 1] = (10, 0, 0), (20, 20, 0)  # 45
    hr[1, 0], sr[1, 0] = (3, 4, 5), (30, 40, 50)  # 0: brightness does not count
    assert sam(sr, hr) == pytest.approx((90 + 45) / 4)
    sr[1, 1] = (0, 0, 7)  # something where there is nothing
    assert sam(sr, hr) == pytest.approx((90 + 45 + 90) / 4)


def test_sam_is_the_arc_cosine_of_the_definition(bands):
    sr, hr = (bands(channels=13).astype(float) for _ in range(2))
    cosine = (sr * hr).sum(2) / (np.linalg.norm(sr, axis=2) * np.linalg.norm(hr, axis=2))
    assert sam(sr, hr) == pytest.approx(np.degrees(np.arccos(cosine)).mean())
    assert sam(hr * 3, hr) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [2, 3.5])
def test_ergas_is_walds_formula(scale):
    hr = np.stack([np.full((8, 8), value, np.uint16) for value in (100, 1000)], -1)
    sr = hr + np.array([10, 200], np.uint16)  # 10 % and 20 % of the mean
    assert ergas(sr, hr, scale) == pytest.approx(
        100 / scale * math.sqrt((0.1**2 + 0.2**2) / 2), rel=1e-12
    )


def test_what_cannot_be_measured_is_named(bands):
    hr = bands()
    with pytest.raises(InputError, match=r"\(24, 31, 4\).*\(23, 31, 4\)"):
        sam(hr, hr[1:])
    with pytest.raises(InputError, match=r"uint16.*float64"):
        ergas(hr, hr.astype(float), 2)
    with pytest.raises(InputError, match="6 x 20"):
        cpsnr(hr[:20, :6], hr[:20, :6])
    empty = hr.copy()
    empty[..., 2] = 0
    with pytest.raises(InputError, match="band 2"):
        ergas(hr, empty, 2)
    with pytest.raises(InputError, match="zeros"):
        nrmse(hr, np.zeros_like(hr))
