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


def test_an_image_that_fits_is_one_tile():
    assert len(list(tiles(264, 264, 192, 36))) == 1
