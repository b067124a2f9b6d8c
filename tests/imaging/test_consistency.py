"""Consistency with the source: what a perfect, a brighter, a tinted and a displaced result show."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from rayscale.errors import InputError
from rayscale.imaging.consistency import consistency
from rayscale.resampling import degrade


@pytest.fixture
def scene():
    """A smooth picture of 4 bands with values far from black and white."""
    noise = ndimage.gaussian_filter(np.random.default_rng(11).normal(size=(96, 120, 4)), (3, 3, 0))
    return (30000 + 10000 * noise / noise.std()).clip(1000, 60000).astype(np.uint16)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_true_picture_agrees_with_what_was_made_of_it(scene, scale):
    found = consistency(scene, degrade(scene, scale), scale)
    assert found.reflectance < 2 / 65535  # the source is rounded
    assert found.spectral < 0.01
    assert found.spatial < 0.02


def test_each_fault_shows_in_its_own_measure(scene):
    lr = degrade(scene, 2)
    brighter = consistency(scene + np.uint16(655), lr, 2)
    assert brighter.reflectance == pytest.approx(655 / 65535, rel=1e-3)
    assert brighter.spatial < 0.02
    moved = consistency(np.roll(scene, (2, 1), (0, 1)), lr, 2)
    assert moved.spatial == pytest.approx(np.hypot(2, 1) / 2, abs=0.06)
    flat = np.full((8, 8, 2), 100, np.uint8)
    tinted = flat + np.array([0, 73], np.uint8)  # 45 degrees become 60 - 0.03
    angle = np.degrees(np.arctan2(173, 100)) - 45
    assert consistency(tinted, flat[:4, :4], 2).spectral == pytest.approx(angle)


def test_floats_are_reflectances(scene):
    lr = degrade(scene / 65535, 2)
    assert consistency(scene / 65535 + 0.25, lr, 2).reflectance == pytest.approx(0.25)


def test_a_scale_between_the_integers():
    y, x = np.mgrid[:60, :90]
    fine = 100 + 20 * np.sin(x / 9)[..., None] + 30 * np.cos(y / 7)[..., None]
    centres = 1.5 * np.arange(60) + 0.25  # LR pixels on the fine grid
    coarse = 100 + 20 * np.sin(centres / 9)[None, :] + 30 * np.cos(centres[:40] / 7)[:, None]
    found = consistency(fine, coarse[..., None], 1.5)
    assert found.reflectance < 0.5  # of an amplitude of 50
    assert found.spatial < 0.05


def test_a_cut_fraction_of_a_pixel_moves_nothing():
    """83 pixels at x1.6 are 132.8, of which 132 are left: on the grid of 1.6 a slope stays where it was."""
    size = 83
    coarse = np.tile(100.0 + np.arange(size), (size, 1))[..., None]
    along = (np.arange(int(size * 1.6)) + 0.5) / 1.6 - 0.5
    fine = np.tile(100.0 + along, (int(size * 1.6), 1))[..., None]
    assert (
        consistency(fine, coarse, 1.6).reflectance < 0.02
    )  # its borders; 0.25 when stretched over them


def test_a_wrong_size_is_named(scene):
    with pytest.raises(InputError, match=r"scale 3.*\(144, 180, 4\)"):
        consistency(scene, scene[::2, ::2], 3)
