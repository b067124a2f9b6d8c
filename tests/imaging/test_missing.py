"""Filling and restoring against a search of every pixel."""

from __future__ import annotations

import numpy as np
import pytest

from rayscale.imaging.levels import Levels
from rayscale.imaging.missing import Missing


@pytest.mark.parametrize("shape", [(9, 7, 1), (9, 7, 3), (2, 9, 7, 1)])
@pytest.mark.parametrize("shared", [False, True])
def test_every_hole_takes_a_value_that_is_nearest(shape, shared):
    rng = np.random.default_rng(1)
    pixels = rng.random(shape)
    valid = rng.random((*shape[:-1], 1) if shared else shape) > 0.6
    holed = np.where(valid, pixels, np.nan)
    filled = Missing(valid).filled(holed, reach=20)
    everywhere = np.broadcast_to(valid, shape)
    np.testing.assert_array_equal(filled[everywhere], pixels[everywhere])
    for place in np.argwhere(~everywhere):
        *frame, y, x, c = place
        plane = everywhere[(*frame, ..., c)]
        rows, columns = np.nonzero(plane)
        distance = (rows - y) ** 2 + (columns - x) ** 2
        nearest = pixels[(*frame, ..., c)][plane][distance == distance.min()]
        assert filled[tuple(place)] in nearest


def test_a_plane_without_any_value_becomes_blank():
    pixels = np.full((4, 4, 2), np.nan)
    pixels[:, :, 1] = 3
    filled = Missing(np.isfinite(pixels)).filled(pixels, 9, (7, 8))
    assert (filled[:, :, 0] == 7).all()
    assert (filled[:, :, 1] == 3).all()
    assert np.isnan(pixels[:, :, 0]).all()  # the source is untouched


@pytest.mark.parametrize("shared", [False, True])
def test_a_part_is_filled_as_the_whole_from_no_farther_than_the_reach(shared):
    rng = np.random.default_rng(2)
    pixels = rng.random((40, 50, 2))
    valid = rng.random((40, 50, 1 if shared else 2)) > 0.98
    missing, reach = Missing(valid), 5
    whole = missing.filled(pixels, reach, (7, 8))
    for channel in range(2):
        rows, columns = np.nonzero(valid[:, :, 0 if shared else channel])
        y, x = np.indices((40, 50))[..., None]
        distance = ((y - rows) ** 2 + (x - columns) ** 2).min(axis=2)
        np.testing.assert_array_equal(whole[:, :, channel] == 7 + channel, distance > reach**2)
    assert (whole >= 7).any()
    part = slice(10, 30), slice(12, 33)
    wide = slice(10 - reach, 30 + reach), slice(12 - reach, 33 + reach)
    filled = missing.cropped(*wide).filled(pixels[wide], reach, (7, 8))
    np.testing.assert_array_equal(filled[reach:-reach, reach:-reach], whole[part])


@pytest.mark.parametrize(
    ("dtype", "mark", "beside"),
    [("uint8", 0, 1), ("uint8", 255, 254), ("int16", -32768, -32767), ("float32", -9999, None)],
)
def test_what_is_measured_is_never_the_mark(dtype, mark, beside):
    source = np.array([[[mark], [7]]], dtype)
    missing = Missing(source != mark, (mark, mark))
    output = np.full((2, 4, 1), mark, dtype)
    restored = missing.restored(output, source, 2)
    assert (restored[:, :2] == mark).all()
    moved = restored[:, 2:]
    assert (moved != mark).all()
    np.testing.assert_allclose(
        moved.astype(float), beside if beside is not None else mark, rtol=1e-6
    )


@pytest.mark.parametrize(("mark", "beside"), [(4095, 4094), (4094, 4095), (0, 1)])
def test_what_steps_aside_for_the_mark_stays_within_the_limits(mark, beside):
    source = np.array([[[mark], [7]]], np.uint16)
    missing, levels = Missing(source != mark, (mark, mark)), Levels.of_type(np.dtype("u2"), 12)
    restored = missing.restored(np.full((2, 4, 1), mark, np.uint16), source, 2, levels)
    assert (restored[:, :2] == mark).all()
    assert (restored[:, 2:] == beside).all()


def test_measured_values_leave_a_reserved_range_by_the_nearer_end():
    source = np.array([[[-20], [7]]], np.int16)
    missing = Missing(source != -20, (-20, -10))
    output = np.array([-21, -20, -19, -15, -14, -10, -9, 7], np.int16).reshape(2, 4, 1)
    restored = missing.restored(output.copy(), source, 2)
    assert (restored[:, :2] == -20).all()
    assert restored[:, 2:].ravel().tolist() == [-21, -9, -9, 7]
    levels = Levels((0,), (100,), "12 bits", limits=(-20, 2027))
    restored = missing.restored(output.copy(), source, 2, levels)
    assert restored[:, 2:].ravel().tolist() == [-9, -9, -9, 7]


def test_nothing_missing_is_nothing_to_do():
    assert Missing.where(np.ones((2, 2, 1), bool)) is None
    assert (
        Missing.where(np.ones((2, 2, 1), bool), (0, 0)) is not None
    )  # 0 must not appear in the output
    assert Missing.where(np.zeros((2, 2, 1), bool)).everything
