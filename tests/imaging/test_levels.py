"""Levels are invertible for every type, and say what they are."""

from __future__ import annotations

import numpy as np
import pytest

from rayscale.errors import UnsupportedError
from rayscale.imaging.levels import PIXEL_TYPES, Levels


@pytest.mark.parametrize("dtype", PIXEL_TYPES)
@pytest.mark.parametrize("value_range", [1.0, 255.0])
def test_a_network_that_does_nothing_changes_nothing(dtype, value_range):
    rng = np.random.default_rng(0)
    high = np.iinfo(dtype).max if dtype.kind in "iu" and dtype.itemsize <= 2 else 100_000
    low = 0 if dtype.kind == "u" else -high
    pixels = rng.integers(low, high, (9, 8, 2), dtype=np.int64, endpoint=True).astype(dtype)
    levels = Levels.of_data(pixels.min((0, 1)), pixels.max((0, 1)), "test")
    seen = levels.to_network(pixels, value_range)
    assert seen.dtype == np.float32
    assert seen.min() == pytest.approx(0, abs=1e-5)
    assert seen.max() == pytest.approx(value_range)
    back = levels.to_values(seen, value_range, dtype)
    assert back.dtype == dtype
    tolerance = 200_000 * 2**-23 if dtype.kind == "f" else 0
    np.testing.assert_allclose(back.astype(float), pixels.astype(float), atol=tolerance)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_of_value_range_255_are_seen_exactly(dtype):
    pixels = np.arange(256, dtype=dtype)[:, None, None] * (np.iinfo(dtype).max // 255)
    seen = Levels.of_type(np.dtype(dtype)).to_network(pixels, 255.0)
    np.testing.assert_allclose(seen.ravel(), np.arange(256), rtol=1e-7)


def test_levels_upside_down_are_invertible_too():
    levels = Levels((4095.0,), (0.0,), "test", 16, (0.0, 4095.0))
    pixels = np.array([0, 1, 4095], np.uint16)[:, None, None]
    seen = levels.to_network(pixels, 1.0)
    assert (seen[0], seen[2]) == (1, 0)
    np.testing.assert_array_equal(levels.to_values(seen, 1.0, pixels.dtype), pixels)


def test_output_is_clipped_to_the_limits_of_integers_only():
    levels = Levels((0.0,), (100.0,), "test", 16, (0.0, 100.0))
    wild = np.array([-0.5, 0.504, 1.7], np.float32)[:, None, None]
    np.testing.assert_array_equal(levels.to_values(wild, 1.0, np.dtype("u2")).ravel(), [0, 50, 100])
    np.testing.assert_allclose(
        levels.to_values(wild, 1.0, np.dtype("f4")).ravel(), [-50, 50.4, 170], rtol=1e-6
    )


def test_a_channel_of_one_value_and_single_channels():
    levels = Levels.of_data(np.array([3, 5]), np.array([3, 9]), "test")
    assert levels.white == (4, 9)
    assert levels.of_channels(slice(1, 2)).black == (5,)
    assert Levels.of_type(np.dtype("u1")).of_channels(slice(1, 2)).white == (255,)
    assert Levels.of_type(np.dtype("u2"), 12).white == (4095,)
    with pytest.raises(UnsupportedError, match="int16"):
        Levels.of_type(np.dtype("i2"))
