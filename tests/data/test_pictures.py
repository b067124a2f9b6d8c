from __future__ import annotations

import numpy as np
import pytest

from rayscale.data.pictures import kind, pictures
from rayscale.errors import UnsupportedError
from rayscale.imaging import Image
from rayscale.imaging.levels import Levels
from rayscale.imaging.missing import Missing


def test_a_picture_is_itself() -> None:
    for dtype in (np.uint8, np.uint16):
        pixels = np.arange(24, dtype=dtype).reshape(4, 3, 2)
        for levels in (None, Levels.of_type(np.dtype(dtype))):
            ((found, _),) = pictures(Image(pixels, levels=levels))
            assert found is pixels
            assert kind(Image(pixels)) == (2, 8 * pixels.itemsize)


def test_bands_come_in_the_order_asked_for() -> None:
    image = Image(np.stack([np.full((2, 2), n, np.uint16) for n in range(5)], axis=2))
    ((found, _),) = pictures(image, (4, 1))
    assert found[0, 0].tolist() == [3, 0]
    assert kind(image, (4, 1)) == (2, 16)
    with pytest.raises(UnsupportedError, match="no band 6: its bands are 1 to 5"):
        pictures(image, (6,))


def test_measurements_become_what_a_network_sees_of_them() -> None:
    """The numbers are those of ``Levels.to_network``, in 65536 steps."""
    values = np.array([-1024, 0, 1000, 3071], np.int16).reshape(2, 2, 1)
    levels = Levels.of_data(np.array([-1024]), np.array([3071]), "CT")
    image = Image(values, levels=levels)
    ((found, _),) = pictures(image)
    assert kind(image) == (1, 16)
    assert found.dtype == np.uint16
    seen = levels.to_network(values, 255.0)
    assert np.abs(found * (255 / 65535) - seen).max() <= 0.5 * 255 / 65535 + 1e-5
    assert found.ravel()[[0, 3]].tolist() == [0, 65535]


def test_twelve_of_sixteen_bits_are_stretched() -> None:
    twelve = Levels.of_type(np.dtype(np.uint16), bits=12)
    ((found, _),) = pictures(Image(np.full((1, 1, 1), 4095, np.uint16), levels=twelve))
    assert found.item() == 65535


def test_a_volume_is_its_slices_but_empty_ones() -> None:
    volume = np.zeros((3, 4, 5, 1), np.uint8)
    volume[1, 2, 2] = 9
    ((found, _),) = pictures(Image(volume))
    assert np.array_equal(found, volume[1])
    with pytest.raises(UnsupportedError, match="nothing to learn"):
        pictures(Image(volume[:1]))


def test_missing_pixels_are_filled_and_told() -> None:
    """As before a network: from the nearest measured one, so that nodata reaches no LR pixel."""
    pixels = np.full((4, 6, 2), 50, np.uint8)
    valid = np.ones((4, 6, 2), bool)
    assert pictures(Image(pixels, missing=Missing(valid, (0, 0))))[0].valid is None
    valid[1, 2, 1] = False
    pixels[1, 2] = 0
    ((found, told),) = pictures(Image(pixels, missing=Missing(valid)))
    assert found[1, 2].tolist() == [0, 50]
    assert told is not None
    assert np.argwhere(~told).tolist() == [[1, 2]]
    ((_, told),) = pictures(Image(pixels, missing=Missing(valid)), (1,))
    assert told is not None
    assert told.all()


def test_a_slice_without_two_measured_values_is_left_out() -> None:
    volume = np.full((2, 4, 4, 1), 7, np.uint8)
    volume[:, 0, 0] = (0,)
    volume[1, 3, 3] = 9
    missing = Missing(volume > 0)
    ((found, told),) = pictures(Image(volume, missing=missing))
    assert found[3, 3] == 9
    assert told is not None
    assert not told[0, 0]
