from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.data.cutting import Cut, columns, crop, cuts, starts, take
from rayscale.degradations import BICUBIC
from rayscale.resampling import degrade


@given(
    length=st.integers(1, 200).map(lambda n: n * 12),
    size=st.integers(1, 40).map(lambda n: n * 12),
    data=st.data(),
)
def test_windows_cover_everything_inside_and_on_the_grid(
    length: int, size: int, data: st.DataObject
) -> None:
    step = 12 * data.draw(st.integers(1, size // 12))
    found = starts(length, size, step)
    covered = np.zeros(length, bool)
    for start in found:
        assert start % 12 == 0
        assert start + min(size, length) <= length
        covered[start : start + size] = True
    assert covered.all()
    assert len(set(found)) == len(found)


def test_any_patch_up_to_the_overlap_lies_whole_in_a_sub_image() -> None:
    found = starts(1200, 480, 288)
    for patch in range(1200 - 192 + 1):
        assert any(start <= patch and patch + 192 <= start + 480 for start in found)


def test_cuts_of_small_and_narrow_images_are_whole() -> None:
    assert cuts(96, 120, 480, 288) == [Cut(0, 0, 96, 120)]
    assert cuts(96, 960, 480, 288) == [
        Cut(0, 0, 96, 480),
        Cut(0, 288, 96, 480),
        Cut(0, 480, 96, 480),
    ]


@pytest.mark.parametrize("bits", [8, 16])
def test_parts_are_those_of_the_degraded_whole(
    make_noise: Callable[..., np.ndarray], bits: int
) -> None:
    pixels = crop(make_noise(101, 134, bits=bits), 12)
    assert pixels.shape == (96, 132, 3)
    places = cuts(96, 132, 48, 36)
    for scale, version in columns(pixels, (1, 2, 3, 4), BICUBIC):
        truth = pixels if scale == 1 else degrade(pixels, scale)
        for place in places:
            part = take(version, place, scale)
            y, x = place.y // scale, place.x // scale
            assert part.shape == (48 // scale, 48 // scale, 3)
            np.testing.assert_array_equal(part, truth[y : y + 48 // scale, x : x + 48 // scale])


def test_images_below_the_grain_are_empty() -> None:
    assert crop(np.zeros((11, 50, 3), np.uint8), 12).size == 0
