from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayscale.inference.tiles import tiles

sizes = st.integers(1, 200)


@given(height=sizes, width=sizes, core=st.integers(16, 64), halo=st.integers(0, 40))
def test_cores_cover_every_pixel_once_and_halos_are_whole(height, width, core, halo):
    covered = np.zeros((height, width), int)
    for tile in tiles(height, width, core, halo):
        rows, columns = tile.rows, tile.columns
        covered[rows.start : rows.stop, columns.start : columns.stop] += 1
        for span, size in ((rows, height), (columns, width)):
            assert span.low == max(span.start - halo, 0) or span.low == 0
            assert span.high == min(span.stop + halo, size) or span.high == size
            assert range(span.low, span.high)[span.core] == range(span.start, span.stop)
        assert max(tile.shape) <= core + 2 * halo
    assert (covered == 1).all()


@given(
    height=sizes,
    width=sizes,
    core=st.integers(16, 64),
    halo=st.integers(0, 40),
    grain=st.sampled_from([2, 5, 10, 100]),
)
def test_with_a_grain_everything_begins_and_ends_at_its_multiples(height, width, core, halo, grain):
    covered = np.zeros((height, width), int)
    for tile in tiles(height, width, core, halo, grain):
        rows, columns = tile.rows, tile.columns
        covered[rows.start : rows.stop, columns.start : columns.stop] += 1
        for span, size in ((rows, height), (columns, width)):
            assert all(edge % grain == 0 for edge in (span.start, span.low))
            assert all(edge % grain == 0 or edge == size for edge in (span.stop, span.high))
            assert span.low <= max(span.start - halo, 0)
            assert span.high >= min(span.stop + halo, size)
            assert span.high - span.low <= max(core, grain) + 2 * (halo + grain)
    assert (covered == 1).all()


def test_an_image_that_fits_is_one_tile():
    assert len(list(tiles(264, 264, 192, 36))) == 1
    assert len(list(tiles(264, 264, 192, 36, grain=100))) == 1
