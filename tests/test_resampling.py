from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rayscale.errors import InputError
from rayscale.resampling import (
    blend,
    degrade,
    downsample,
    enlarge,
    enlarged,
    modcrop,
    nearest,
    resize,
    upsample,
)


def _pixels(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path))
    return pixels if pixels.ndim == 3 else pixels[..., None]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("benchmark", ["Set5", "Set14"])
def test_degrade_is_bit_exact_with_the_stored_benchmark(shared_data, benchmark, scale):
    folder = shared_data / "benchmarks" / benchmark / f"x{scale}"
    images = sorted((folder / "HR").iterdir())
    assert images
    for hr in images:
        lr = folder / "LR" / hr.name.replace("_HR", "_LR")
        np.testing.assert_array_equal(degrade(_pixels(hr), scale), _pixels(lr), err_msg=hr.name)


@pytest.mark.parametrize(("height", "width"), [(24, 36), (10, 7), (12, 12)])
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_resize_equals_torch_antialiased_inside(height, width, method):
    """An independent implementation of the same kernel; it differs at borders only, where it renormalises."""
    x = torch.rand(1, 2, 60, 60, dtype=torch.float64) * 255
    ours = resize(x, (height, width), method)
    theirs = torch.nn.functional.interpolate(
        x, size=(height, width), mode=method, antialias=True, align_corners=False
    )
    inner = (
        (..., slice(3, -3), slice(2, -2))
        if min(height, width) > 8
        else (..., slice(4, -3), slice(3, -3))
    )
    torch.testing.assert_close(ours[inner], theirs[inner], atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_enlarging_keeps_constants_and_ramps(scale):
    constant = np.full((9, 8, 2), 77, np.uint8)
    assert (enlarge(constant, scale) == 77).all()
    ramp = np.arange(0, 64000, 2000, dtype=np.uint16).reshape(1, -1, 1).repeat(8, axis=0)
    wide = enlarge(ramp, scale)[0, :, 0].astype(float)
    # Cubic convolution reproduces straight lines: a pixel centre lies at (i + 0.5) / scale - 0.5.
    centre = (np.arange(wide.size) + 0.5) / scale - 0.5
    inside = slice(3 * scale, -3 * scale)
    np.testing.assert_allclose(wide[inside], 2000 * centre[inside], atol=0.5)


@pytest.mark.parametrize("size", [(14, 18), (15, 7)])
def test_downsampling_is_the_way_back(size):
    whole = torch.rand(2, 3 * size[0], 3 * size[1], dtype=torch.float64)
    torch.testing.assert_close(downsample(whole, size, 3), resize(whole, size))
    # At 1.5 the last half pixel of an odd side is cut, but a straight line stays where it was.
    line = torch.arange(size[0], dtype=torch.float64)[:, None] * torch.ones(size[1])
    larger = upsample(line, 1.5)
    assert (downsample(larger, size, 1.5) - line)[5:-5].abs().max() < 0.02
    if size[0] % 2:
        assert (resize(larger, size) - line)[5:-5].abs().max() > 0.1


def test_sixteen_bits_keep_their_depth():
    pixels = np.random.default_rng(0).integers(0, 65536, (32, 32, 3), dtype=np.uint16)
    lr = degrade(pixels, 2)
    assert lr.dtype == np.uint16
    assert len(np.unique(lr & 0xFF)) > 100  # the low byte still carries information


def test_degrade_crops_to_a_multiple_of_the_scale():
    pixels = np.random.default_rng(0).integers(0, 256, (13, 11, 1), dtype=np.uint8)
    np.testing.assert_array_equal(degrade(pixels, 4), degrade(pixels[:12, :8], 4))


def test_an_image_smaller_than_the_scale_names_both():
    with pytest.raises(InputError, match=r"3x2 pixels.*scale 4"):
        modcrop(np.zeros((2, 3, 1), np.uint8), 4)


@pytest.mark.parametrize("scale", [1, 2, 3, 1.5, 2.25])
def test_nearest_takes_the_pixel_under_the_centre(scale):
    source = np.arange(7 * 5).reshape(7, 5)
    result = nearest(source, scale)
    assert result.shape == (enlarged(7, scale), enlarged(5, scale))
    for y, x in np.ndindex(result.shape):
        assert result[y, x] == source[int((y + 0.5) / scale), int((x + 0.5) / scale)]
    volume = np.stack([source, source + 100])
    np.testing.assert_array_equal(nearest(volume, scale, (1, 2))[1], result + 100)


@pytest.mark.parametrize("scale", [2, 3, 1.5, 2.25])
def test_blend_is_bilinear_and_the_same_for_a_part(scale):
    values = np.random.default_rng(0).random((36, 48))
    larger = blend(values, scale)
    np.testing.assert_allclose(larger, enlarge(values, scale, "bilinear"), atol=1e-12)
    part = blend(values[12:24, 8:40], scale)  # from 12 to 24 and from 8 to 40: multiples of 4
    rows, columns = (slice(int((low + 4) * scale), int((high - 4) * scale)) for low, high in ((12, 24), (8, 40)))  # fmt: skip
    inner = slice(int(4 * scale), -int(4 * scale))
    np.testing.assert_array_equal(part[inner, inner], larger[rows, columns])
