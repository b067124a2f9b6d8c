"""Limits on headers: what a picture would take is refused before it is taken."""

from __future__ import annotations

import pytest

from rayscale.errors import TooLargeError
from rayscale.imaging import Header
from rayscale.imaging.limits import check_output
from rayscale.settings import get_settings


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_settings(), "max_output_pixels", 1000)


def test_the_pixels_of_all_slices_count() -> None:
    check_output(Header("nifti", 10, 10, 1, 16, slices=2), 2)
    with pytest.raises(TooLargeError, match=r"10x10 pixels of 3 slices at x2 make 20x20.*1000"):
        check_output(Header("nifti", 10, 10, 1, 16, slices=3), 2)


def test_many_bands_count_by_their_bytes() -> None:
    """400 pixels of n bands of 16 bit against 1000 of 8 bytes."""
    check_output(Header("geotiff", 10, 10, 10, 16), 2)
    with pytest.raises(TooLargeError, match=r"11 channels of 16 bits, 8800 bytes.*8000.*split"):
        check_output(Header("geotiff", 10, 10, 11, 16), 2)


def test_a_scale_that_is_no_integer_counts_whole_pixels() -> None:
    with pytest.raises(TooLargeError, match=r"20x19 pixels at x2.5 make 50x47"):
        check_output(Header("png", 20, 19, 3, 8), 2.5)
