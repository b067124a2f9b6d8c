"""Windows against brute force; the sheet against the pixels that must be on it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from rayscale.errors import ConfigError, InputError
from rayscale.evaluation import crops
from rayscale.evaluation.crops import Window, most_different, sheet
from rayscale.imaging.metrics import DIV2K, EDSR_PAPER, RGB


@pytest.fixture
def rng():
    """Random numbers that are the same for a test whatever ran before it."""
    return np.random.default_rng(2)


def test_the_chosen_window_is_where_the_variance_is_largest(rng):
    pictures = rng.integers(0, 256, (3, 20, 27, 2), dtype=np.uint8)
    variance = pictures.astype(float).var(0).sum(-1)
    sums = {(x, y): variance[y : y + 9, x : x + 9].sum() for y in range(12) for x in range(19)}
    window = most_different(list(pictures), 9)
    assert (window.x, window.y) == max(sums, key=sums.get)
    assert (window.width, window.height) == (9, 9)


def test_the_window_fits_small_pictures():
    a = np.zeros((20, 100, 1), np.uint8)
    b = a.copy()
    b[:, 70] = 9
    window = most_different([a, b], 64)
    assert (window.y, window.width, window.height) == (0, 64, 20)
    assert window.x <= 70 < window.x + 64


def test_windows_are_read_and_refused():
    assert Window.parse("40,5,100,60") == Window(40, 5, 100, 60)
    for text in ("40,5,100", "a,b,c,d", "0,0,10,64", "-1,0,64,64", ""):
        with pytest.raises(ConfigError, match="window"):
            Window.parse(text)
    with pytest.raises(InputError, match="100x90"):
        Window(50, 40, 64, 40).cut(np.zeros((90, 100, 3), np.uint8))


def contains(page: np.ndarray, part: np.ndarray) -> bool:
    """Whether an array of pixels occurs in another."""
    corner = np.argwhere((page[: -part.shape[0] + 1, : -part.shape[1] + 1] == part[0, 0]).all(-1))
    return any(
        (page[y : y + part.shape[0], x : x + part.shape[1]] == part).all() for y, x in corner
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_shows_the_magnified_window_of_every_result_and_of_hr(channels, rng):
    hr = rng.integers(0, 256, (90, 100, channels), dtype=np.uint8)
    results = {"bicubic": hr // 2, "edsr": hr // 3 + 7}
    file = sheet("noise", hr, results, EDSR_PAPER, Window(30, 20, 66, 44))
    page = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    for pixels in (*results.values(), hr):
        part = pixels[20:64, 30:96].repeat(4, 0).repeat(4, 1)
        assert contains(page, np.broadcast_to(part, (*part.shape[:2], 3)))
    assert file == sheet("noise", hr, results, EDSR_PAPER, Window(30, 20, 66, 44))


@pytest.fixture
def cells(monkeypatch):
    """What the last sheet was composed of: label, scores and 8-bit pixels of each window."""
    seen = []
    monkeypatch.setattr(crops, "_compose", lambda title, whole, cells, window: seen.extend(cells))
    return seen


def test_the_scores_under_a_window_are_its_own(cells):
    hr = np.full((60, 60, 3), 100, np.uint8)
    sr = hr + np.uint8(50)  # wrong everywhere but a little less so in the window
    sr[20:40, 20:40] = 105
    sheet("flat", hr, {"mine": sr}, DIV2K, Window(20, 20, 20, 20))
    labels = [cell[:2] for cell in cells]
    c1 = (0.01 * 255) ** 2
    ssim = (2 * 100 * 105 + c1) / (100**2 + 105**2 + c1)
    psnr = 20 * np.log10(255 / 5)
    assert labels == [("mine", f"{psnr:.2f} dB / {ssim:.4f}"), ("HR", "PSNR / SSIM")]


def test_sixteen_bits_and_many_bands_are_shown_by_the_reference_of_their_first_three(cells, rng):
    hr = rng.integers(1000, 3000, (40, 40, 7), dtype=np.uint16)
    sheet("bands", hr, {"half": hr // 2}, RGB)
    low, high = np.percentile(hr[..., :3], (1, 99))
    for (_, _, shown), pixels in zip(cells, (hr // 2, hr), strict=True):
        expected = 255 * (pixels[..., :3] - low) / (high - low)
        np.testing.assert_allclose(shown, expected.clip(0, 255), atol=0.51)
