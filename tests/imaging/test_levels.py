"""Levels are invertible for every type, and say what they are."""

from __future__ import annotations

import numpy as np
import pytest

from rayscale.errors import InputError, UnsupportedError
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


@pytest.mark.parametrize("value", [0.0, 7.5, -9.97e36, 9.97e36, 3.4028235e38])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_channel_of_one_value_has_a_range_however_large_it_is(dtype, value):
    pixels = np.full((4, 5, 1), value, dtype)
    levels = Levels.of_measured(pixels.dtype, [(pixels, True)], (0, 1), "test", pixels.size)
    seen = levels.to_network(pixels, 255.0)
    np.testing.assert_array_equal(seen, 0)
    np.testing.assert_array_equal(levels.to_values(seen, 255.0, pixels.dtype), pixels)


FILL = float(np.float32(-3.4028235e38))


@pytest.mark.parametrize(
    "values",
    [
        (FILL, 100, 500, 900),
        (100, 500, 900, 1e20),
        (FILL, 500),
        (FILL, -500, 0),
        (FILL, 100, 900, -FILL),
    ],
)
def test_a_range_that_float32_cannot_resolve_is_refused_across_parts(values):
    parts = [(np.full((2, 2, 1), value, "f4"), True) for value in values]
    with pytest.raises(InputError, match=r"band 1 reaches from .* to .*nodata"):
        Levels.of_measured(np.dtype("f4"), parts, (0, 1), "test", 99)
    measured = [(part, np.abs(part) < 1e19) for part, _ in parts]
    levels = Levels.of_measured(np.dtype("f4"), measured, (0, 1), "test", 99)
    inside = [value for value in values if abs(value) < 1e19]
    assert levels.black == (min(inside),)
    assert levels.white == (max(inside) if len(inside) > 1 else inside[0] + 1,)


@pytest.mark.parametrize("values", [(0, 1), (-9999, 100, 900), (1e-6, 1e-3, 1e3), (1e30, 2e30)])
def test_wide_ranges_and_two_values_are_taken(values):
    pixels = np.array(values, "f8").reshape(-1, 1, 1)
    levels = Levels.of_measured(pixels.dtype, [(pixels, True)], (0, 1), "test", pixels.size)
    assert (levels.black, levels.white) == ((min(values),), (max(values),))


@pytest.mark.parametrize(
    ("dtype", "fill"), [("f4", -9999), ("i2", -32768), ("u2", 65535), ("u2", 0)]
)
@pytest.mark.parametrize("share", [1, 300, 1500])
def test_a_fill_that_no_one_declared_is_left_out_however_often_it_occurs(dtype, fill, share):
    values = np.random.default_rng(0).integers(3000, 5000, (40, 50, 1)).astype(dtype)
    rest = np.sort(values.ravel()[share:])
    values.ravel()[:share] = fill
    found = [
        Levels.of_measured(values.dtype, parts, (0, 1), "here", 2000)
        for parts in ([(values, True)], [(values[:7], True), (values[7:], True)])
    ]
    assert found[0] == found[1]
    assert rest[0] <= found[0].black[0] <= rest[2]
    assert rest[-3] <= found[0].white[0] <= rest[-1]
    assert ("far from all others" in found[0].rule) == (share > 2)


def test_a_background_no_farther_than_the_values_from_each_other_is_part_of_the_picture():
    values = np.random.default_rng(0).integers(300, 900, (40, 50, 1))
    values[:20] = 0
    levels = Levels.of_measured(values.dtype, [(values, True)], (0, 1), "", 2000)
    assert levels.black == (0,)


@pytest.mark.parametrize("axes", [(0, 1), None])
def test_values_that_no_network_can_see_are_known_when_levels_are_found(axes):
    pixels = np.random.default_rng(0).uniform(0, 1, (60, 60, 2))
    pixels[3, :3, 1] = 1e300, 2e300, -3e300
    with pytest.raises(InputError, match=r"e\+300 is out of all proportion.*nodata"):
        Levels.of_measured(pixels.dtype, [(pixels, True)], axes, "test", pixels.size)


def test_values_that_leave_their_type_are_an_error():
    levels = Levels((FILL,), (-FILL,), "test")
    beyond = np.full((1, 1, 1), 1.01, np.float32)
    with pytest.raises(InputError, match=r"next to 3.40282e\+38, where float32 ends.*nodata"):
        levels.to_values(beyond, 1.0, np.dtype("f4"))
