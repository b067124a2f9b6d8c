from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayscale.inference.tiles import Tile

sizes = st.integers(1, 200)


@given(height=sizes, width=sizes, core=st.integers(16, 64), halo=st.integers(0, 40))
def test_cores_cover_every_pixel_once_and_halos_are_whole(height, width, core, halo):
    covered = np.zeros((height, width), int)
    for tile in Tile.whole(height, width).cut(core, halo, 1, (height, width)):
        rows, columns = tile.rows, tile.columns
        covered[rows.start : rows.stop, columns.start : columns.stop] += 1
        for span, size in ((rows, height), (columns, width)):
            assert span.low == max(span.start - halo, 0) or span.low == 0
            assert span.high == min(span.stop + halo, size) or span.high == size
            assert range(span.low, span.high)[slice(*span.core)] == range(span.start, span.stop)
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
    for tile in Tile.whole(height, width).cut(core, halo, grain, (height, width)):
        rows, columns = tile.rows, tile.columns
        covered[rows.start : rows.stop, columns.start : columns.stop] += 1
        for span, size in ((rows, height), (columns, width)):
            assert all(edge % grain == 0 for edge in (span.start, span.low))
            assert all(edge % grain == 0 or edge == size for edge in (span.stop, span.high))
            assert span.low <= max(span.start - halo, 0)
            assert span.high >= min(span.stop + halo, size)
            assert span.high - span.low <= max(core, grain) + 2 * (halo + grain)
    assert (covered == 1).all()


@given(height=sizes, width=sizes, core=st.integers(16, 64), halo=st.integers(0, 40))
def test_a_tile_cut_again_reads_what_the_image_has(height, width, core, halo):
    covered, size = np.zeros((height, width), int), (height, width)
    for tile in Tile.whole(height, width).cut(core, halo, 2, size):
        assert tile.cut(core, halo, 2, size) == [tile]
        for small in tile.cut(core // 2, halo, 2, size):
            rows, columns = small.rows, small.columns
            covered[rows.start : rows.stop, columns.start : columns.stop] += 1
            for span, side in ((rows, height), (columns, width)):
                assert span.low <= max(span.start - halo, 0)
                assert span.high >= min(span.stop + halo, side)
            assert max(small.shape) <= core // 2 + 2 * (halo + 2)
    assert (covered == 1).all()


def test_an_image_that_fits_is_one_tile():
    whole = Tile.whole(264, 264)
    assert whole.cut(192, 36, 1, (264, 264)) == [whole]
    assert whole.cut(192, 36, 100, (264, 264)) == [whole]


def test_a_panel_has_all_rows():
    panels = Tile.whole(900, 500).cut(100, 7, 1, (900, 500), rows=False)
    assert [panel.shape for panel in panels] == [(900, 107), *[(900, 114)] * 3, (900, 107)]
