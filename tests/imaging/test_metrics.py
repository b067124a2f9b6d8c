"""PSNR and SSIM against their closed forms and scikit-image."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from rayscale.errors import InputError
from rayscale.imaging.metrics import DIV2K, EDSR_PAPER, PROTOCOLS, RGB, psnr, ssim

RNG = np.random.default_rng(4)


def pair(height: int = 60, width: int = 71, channels: int = 3, dtype: type = np.uint8):
    """A smooth picture and a noisy copy."""
    y, x = np.mgrid[:height, :width]
    peak = np.iinfo(dtype).max
    clean = np.stack([0.5 + 0.4 * np.sin(x / (5 + c) + y / 9) for c in range(channels)], -1)
    noisy = clean + RNG.normal(0, 0.03, clean.shape)
    return tuple((np.clip(a, 0, 1) * peak).round().astype(dtype) for a in (clean, noisy))


def luma(pixels: np.ndarray) -> np.ndarray:
    r, g, b = np.moveaxis(pixels.astype(np.float64), 2, 0)
    return (65.738 * r + 129.057 * g + 25.064 * b) / 256 + 16


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_paper_psnr_is_the_official_formula(scale):
    a, b = pair()
    diff = (a.astype(np.float64) - b) / 255
    weights = np.array([65.738, 129.057, 25.064]) / 256
    valid = (diff * weights).sum(2)[scale:-scale, scale:-scale]
    assert psnr(a, b, EDSR_PAPER, scale) == pytest.approx(-10 * math.log10((valid**2).mean()))


@pytest.mark.parametrize(("protocol", "shave"), [(RGB, 3), (DIV2K, 9)])
def test_colour_psnr_and_its_border(protocol, shave):
    a, b = pair()
    diff = (a.astype(np.float64) - b)[shave:-shave, shave:-shave]
    assert psnr(a, b, protocol, 3) == pytest.approx(
        20 * math.log10(255 / math.sqrt((diff**2).mean()))
    )


def test_a_constant_step_has_a_closed_form():
    a = np.full((40, 40, 3), 100, np.uint8)
    b = a + np.uint8(5)
    assert psnr(a, b, RGB, 2) == pytest.approx(20 * math.log10(255 / 5))
    y = 5 * (65.738 + 129.057 + 25.064) / 256
    assert psnr(a, b, EDSR_PAPER, 2) == pytest.approx(20 * math.log10(255 / y))
    # Grey is measured as it is, not as RGB with its smaller luma range.
    assert psnr(a[..., :1], b[..., :1], EDSR_PAPER, 2) == pytest.approx(20 * math.log10(255 / 5))
    c1 = (0.01 * 255) ** 2
    closed = (2 * 100 * 105 + c1) / (100**2 + 105**2 + c1)
    assert ssim(a, b, RGB, 2) == pytest.approx(closed)


def reference(x: np.ndarray, y: np.ndarray) -> float:
    """Mean of scikit-image's map where the 11 x 11 window fits."""
    _, full = structural_similarity(
        x,
        y,
        win_size=11,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    return float(full[5:-5, 5:-5].mean())


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", [(60, 71), (300, 33), (21, 19)])
def test_ssim_is_that_of_scikit_image(scale, size):
    a, b = pair(*size)
    inner = slice(scale, -scale)
    expected = reference(luma(a)[inner, inner], luma(b)[inner, inner])
    assert ssim(a, b, EDSR_PAPER, scale) == pytest.approx(expected, abs=1e-9)
    planes = [
        reference(a[inner, inner, c].astype(float), b[inner, inner, c].astype(float))
        for c in range(3)
    ]
    assert ssim(a, b, RGB, scale) == pytest.approx(np.mean(planes), abs=1e-9)


def test_large_planes_are_cut_into_stripes_without_a_seam():
    a, b = pair(400, 3000, 1)
    inner = slice(2, -2)
    expected = reference(a[inner, inner, 0].astype(float), b[inner, inner, 0].astype(float))
    assert ssim(a, b, EDSR_PAPER, 2) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("protocol", list(PROTOCOLS.values()), ids=list(PROTOCOLS))
@pytest.mark.parametrize("channels", [1, 3])
def test_equal_pictures(protocol, channels):
    a, _ = pair(channels=channels)
    assert psnr(a, a, protocol, 2) == math.inf
    assert ssim(a, a, protocol, 2) == pytest.approx(1)


@pytest.mark.parametrize("protocol", list(PROTOCOLS.values()), ids=list(PROTOCOLS))
def test_depth_changes_nothing_but_precision(protocol):
    a, b = pair()
    wide = [x.astype(np.uint16) * 257 for x in (a, b)]
    assert psnr(*wide, protocol, 2) == pytest.approx(psnr(a, b, protocol, 2))
    assert ssim(*wide, protocol, 2) == pytest.approx(ssim(a, b, protocol, 2))


def test_any_number_of_bands_in_the_colour_protocol():
    a, b = pair(channels=7)
    assert psnr(a, b, RGB, 2) > 20
    with pytest.raises(InputError, match="7 channels"):
        psnr(a, b, EDSR_PAPER, 2)


def test_mismatches_are_named():
    a, b = pair()
    with pytest.raises(InputError, match=r"\(60, 71, 3\).*\(59, 71, 3\)"):
        psnr(a, b[1:], RGB, 2)
    with pytest.raises(InputError, match=r"uint8.*uint16"):
        ssim(a, b.astype(np.uint16), RGB, 2)
    with pytest.raises(InputError, match="too few"):
        ssim(a[:14, :14], b[:14, :14], RGB, 2)
    with pytest.raises(InputError, match="float64"):
        psnr(a / 1.0, b / 1.0, RGB, 2)
    assert psnr(a[:14, :14], b[:14, :14], RGB, 2) > 20


def test_a_two_megapixel_picture_takes_a_moment():
    a, b = pair(1000, 2000)
    start = time.process_time()
    ssim(a, b, EDSR_PAPER, 2)
    assert time.process_time() - start < 5


def test_the_border_of_a_fractional_scale_is_rounded_up():
    a, b = pair()
    assert psnr(a, b, RGB, 2.4) == psnr(a, b, RGB, 3) != psnr(a, b, RGB, 2)
    assert ssim(a, b, RGB, 2.4) == ssim(a, b, RGB, 3)
