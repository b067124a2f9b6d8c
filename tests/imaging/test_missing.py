"""Filling and restoring against a search of every pixel."""

from __future__ import annotations

import numpy as np
import pytest

from rayscale.imaging.missing import Missing


@pytest.mark.parametrize("shape", [(9, 7, 1), (9, 7, 3), (2, 9, 7, 1)])
@pytest.mark.parametrize("shared", [False, True])
def test_every_hole_takes_a_value_that_is_nearest(shape, shared):
    rng = np.random.default_rng(1)
    pixels = rng.random(shape)
    valid = rng.random((*shape[:-1], 1) if shared else shape) > 0.6
    holed = np.where(valid, pixels, np.nan)
    filled = Missing(valid).filled(holed)
    everywhere = np.broadcast_to(valid, shape)
    np.testing.assert_array_equal(filled[everywhere], pixels[everywhere])
    for place in np.argwhere(~everywhere):
        *frame, y, x, c = place
        plane = everywhere[(*frame, ..., c)]
        rows, columns = np.nonzero(plane)
        distance = (rows - y) ** 2 + (columns - x) ** 2
        nearest = pixels[(*frame, ..., c)][plane][distance == distance.min()]
        assert filled[tuple(place)] in nearest


def test_a_plane_without_any_value_becomes_zero():
    pixels = np.full((4, 4, 2), np.nan)
    pixels[:, :, 1] = 3
    filled = Missing(np.isfinite(pixels)).filled(pixels)
    assert (filled[:, :, 0] == 0).all()
    assert (filled[:, :, 1] == 3).all()
    assert np.isnan(pixels[:, :, 0]).all()  # the source is untouched


@pytest.mark.parametrize(
    ("dtype", "mark", "beside"),
    [("uint8", 0, 1), ("uint8", 255, 254), ("int16", -32768, -32767), ("float32", -9999, None)],
)
def test_what_is_measured_is_never_the_mark(dtype, mark, beside):
    source = np.array([[[mark], [7]]], dtype)
    missing = Missing(source != mark, float(mark))
    output = np.full((2, 4, 1), mark, dtype)
    restored = missing.restored(output, source, 2)
    assert (restored[:, :2] == mark).all()
    moved = restored[:, 2:]
    assert (moved != mark).all()
    np.testing.assert_allclose(
        moved.astype(float), beside if beside is not None else mark, rtol=1e-6
    )


def test_nothing_missing_is_nothing_to_do():
    assert Missing.where(np.ones((2, 2, 1), bool)) is None
    assert Missing.where(np.ones((2, 2, 1), bool), 0) is not None  # 0 must not appear in the output
    assert Missing.where(np.zeros((2, 2, 1), bool)).everything
