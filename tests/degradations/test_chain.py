"""Degradations as values: their texts, what can be joined, and types of pixels."""

from __future__ import annotations

import numpy as np
import pytest

from rayscale import resampling
from rayscale.degradations import STAGES, Degradation, draw
from rayscale.errors import ConfigError
from rayscale.resampling import degrade

TEXTS = [
    "bicubic",
    "mtf:gain=0.3",
    "mtf:gain=0.3/0.25",
    "mtf:sensor=sentinel-2,bands=B4/B3/B2",
    "mtf:sensor=landsat-oli,bands=B4",
    "kspace",
    "blur_noise_jpeg",
    "blur_noise_jpeg:blur=0..0,noise=3..3,jpeg=none",
    "mtf:gain=0.3+blur_noise_jpeg:blur=0..0,jpeg=none",
    "kspace+blur_noise_jpeg:jpeg=none",
]


def noise(
    height: int = 48, width: int = 36, channels: int = 3, dtype: type = np.uint8
) -> np.ndarray:
    random = np.random.default_rng(1)
    if np.dtype(dtype).kind == "f":
        return random.random((height, width, channels)).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


@pytest.mark.parametrize("text", TEXTS)
def test_the_full_text_means_the_same(text: str) -> None:
    degradation = Degradation.parse(text)
    assert Degradation.parse(str(degradation)) == degradation
    assert str(Degradation.parse(str(degradation))) == str(degradation)


def test_a_sensor_is_recorded_with_its_gains() -> None:
    """So that a corrected table does not change what an older dataset says."""
    text = str(Degradation.parse("mtf:sensor=sentinel-2,bands=B4/B3/B2"))
    assert text == "mtf:sensor=sentinel-2,bands=B4/B3/B2,gain=0.24/0.28/0.26"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blur", "there are bicubic, mtf, kspace, blur_noise_jpeg"),
        ("kspace+mtf:gain=0.3", "both make the image smaller"),
        ("mtf", "give the gain"),
        ("mtf:gain=1", "below 1"),
        ("mtf:gain=high", "high"),
        ("mtf:sensor=spot", "sentinel-2, landsat-oli"),
        ("mtf:sensor=sentinel-2,bands=B13", "none of sentinel-2"),
        ("mtf:gain", "KEY=VALUE"),
        ("kspace:part=0.5", "no parameter 'part'"),
        ("blur_noise_jpeg:noise=9..3", "must rise"),
        ("blur_noise_jpeg:jpeg=0..200", "between 1 and 100"),
        ("blur_noise_jpeg:blur=0..1000", "too wide"),
    ],
)
def test_what_cannot_be_is_told_with_the_way_out(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Degradation.parse(text)


def test_bands_must_be_those_of_the_image() -> None:
    degradation = Degradation.parse("mtf:sensor=sentinel-2")
    with pytest.raises(ConfigError, match="12 bands of sentinel-2, but the images have 3 channels"):
        degradation.apply(noise(), 2)
    with pytest.raises(ConfigError, match="not possible at x2"):
        Degradation.parse("mtf:gain=0.9").check(3, (2,))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_that_of_the_benchmarks(scale: int) -> None:
    pixels = noise(50, 43)
    assert np.array_equal(Degradation().apply(pixels, scale), degrade(pixels, scale))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_types_and_ends_stay(text: str, dtype: type) -> None:
    """A flat picture at either end comes back as it is, but for noise, whatever the type."""
    degradation = Degradation.parse(text)
    channels = 2 if "0.3/0.25" in text else 1 if "bands=B4" in text and "/" not in text else 3
    info = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
    black, white = (0.0, 1.0) if np.dtype(dtype).kind == "f" else (info.min, info.max)
    for value in (black, white):
        flat = np.full((24, 24, channels), value, dtype)
        lr = degradation.apply(flat, 2, draw(0, 0, 0))
        assert lr.dtype == dtype
        assert lr.shape == (12, 12, channels)
        tolerance = 0.6 if degradation.is_random else 1e-6
        assert np.abs(lr.astype(float) - value).max() <= tolerance * (float(white) - float(black))


def test_16_bits_keep_their_depth() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64, 1).astype(np.uint16)
    for text in ("mtf:gain=0.3", "kspace"):
        assert len(np.unique(Degradation.parse(text).apply(ramp, 2))) > 900


def test_a_picture_in_bands_of_rows_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("bicubic", "mtf:gain=0.2/0.3/0.4"):
        degradation = Degradation.parse(text)
        whole = degradation.apply(noise(240, 60), 3)
        monkeypatch.setattr(resampling, "_BAND", 1 << 10)
        assert np.array_equal(degradation.apply(noise(240, 60), 3), whole)
        monkeypatch.undo()


def test_draws_depend_on_seed_step_and_sample_alone() -> None:
    degradation = Degradation.parse("blur_noise_jpeg")
    first = degradation.apply(noise(), 2, draw(3, 7, 1))
    assert np.array_equal(degradation.apply(noise(), 2, draw(3, 7, 1)), first)
    for other in ((4, 7, 1), (3, 8, 1), (3, 7, 2)):
        assert not np.array_equal(degradation.apply(noise(), 2, draw(*other)), first)
    with pytest.raises(ConfigError, match="give a seed"):
        degradation.apply(noise(), 2)


def test_every_stage_says_what_it_is() -> None:
    assert set(STAGES) == {"bicubic", "mtf", "kspace", "blur_noise_jpeg"}
    assert all(name == stage.name and stage.__doc__ for name, stage in STAGES.items())
