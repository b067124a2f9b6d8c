"""Which files are a pair, and whether they fit: layouts as published, degradations made here."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from rayscale.errors import ConfigError, InputError, UnsupportedError
from rayscale.pairs import check_registration, find_pairs, fit
from rayscale.resampling import degrade
from rayscale.storage import Store, connect


def store_of(folder: Path, *keys: str) -> Store:
    store = connect(folder)
    for key in keys:
        store.write(key, b"x")
    return store


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            [
                "DIV2K_train_HR/0801.png",
                "DIV2K_train_LR_bicubic/X2/0801x2.png",
                "DIV2K_train_LR_bicubic/X3/0801x3.png",
            ],
            {"div2k_train/0801": {2: 1, 3: 2}},
        ),
        (
            [
                "HR/a.png",
                "HR/bx2.png",
                "LR_bicubic/X2/ax2.png",
                "LR_bicubic/X2/bx2x2.png",
            ],
            {"a": {2: 2}, "bx2": {2: 3}},
        ),
        (["HR/a.png", "LR/ax2.png"], {"a": {2: 1}}),
        (["HR/a.png", "LR/a.png"], {"a": {None: 1}}),
        (["HR/a.png", "LR/x2/a.png"], {"a": {2: 1}}),
        (["x2/HR/a_HR.png", "x2/LR/a_LR.png"], {"a": {2: 1}}),
        (["GTmod12/a.png", "LRbicx4/a.png"], {"a": {4: 1}}),
        (["2/a_HR.png", "2/a_LR2.png"], {"2/a": {2: 1}}),
        (["HR/0801.png", "LR_mild/X4/0801x4m.png"], {"0801": {4: 1}}),
        (["train_HR/a.png", "train_LR/a.png"], {"train/a": {None: 1}}),
        (
            ["hr/city/a.png", "hr/sea/a.png", "lr/city/a.png", "lr/sea/a.png"],
            {"city/a": {None: 2}, "sea/a": {None: 3}},
        ),
    ],
)
def test_the_layouts_of_the_field(
    tmp_path: Path, keys: list[str], expected: dict[str, dict[int | None, int]]
) -> None:
    """Expected: name -> scale -> position of the LR key; the HR images are the other keys, in order."""
    litter = [key.replace("/", "/._", 1) for key in keys] + ["__MACOSX/HR/a.png", "HR/Thumbs.db"]
    pairing = find_pairs(store_of(tmp_path, *keys, *litter, "HR/notes.txt"))
    assert pairing is not None
    assert pairing.alone == {}
    found = {
        pair.name: {s: keys.index(e.key) for s, e in pair.lr.items()} for pair in pairing.pairs
    }
    assert found == expected
    low = {number for scales in expected.values() for number in scales.values()}
    assert [pair.hr.key for pair in pairing.pairs] == [
        key for number, key in enumerate(keys) if number not in low
    ]


def test_one_hr_image_for_each_scale(tmp_path: Path) -> None:
    """Benchmarks crop HR for each scale: those of x2 are no partners of LR at x3."""
    keys = [f"x{s}/{kind}/a_{kind}.png" for s in (2, 3) for kind in ("HR", "LR")]
    pairing = find_pairs(store_of(tmp_path, *keys))
    assert pairing is not None
    assert [(p.bound, p.hr.key, list(p.lr)) for p in pairing.pairs] == [
        (2, "x2/HR/a_HR.png", [2]),
        (3, "x3/HR/a_HR.png", [3]),
    ]
    assert pairing.scales == [2, 3]


def test_images_without_a_partner_are_named(tmp_path: Path) -> None:
    keys = ["HR/a.png", "HR/b.png", "LR/a.png", "LR/c.png", "more.png"]
    pairing = find_pairs(store_of(tmp_path, *keys))
    assert pairing is not None
    assert [pair.name for pair in pairing.pairs] == ["a"]
    assert pairing.alone == {
        "HR/b.png": "has no LR image of its name",
        "LR/c.png": "has no HR image of its name",
        "more.png": "lies neither among the HR nor the LR images",
    }


def test_images_alone_are_no_pairs(tmp_path: Path) -> None:
    assert find_pairs(store_of(tmp_path / "a", "a.png", "b/c.png", "shrine.png")) is None
    assert find_pairs(store_of(tmp_path / "b", "HR/a.png", "HR/b.png")) is None
    with pytest.raises(InputError, match=r"none has the name of another.*HR/a\.png and LR/b\.png"):
        find_pairs(store_of(tmp_path / "c", "HR/a.png", "LR/b.png"))
    with pytest.raises(InputError, match="both taken for the same image"):
        find_pairs(store_of(tmp_path / "d", "HR/a.png", "LR/X2/a.png", "LR/X2/ax2.png"))


def test_one_of_several_degradations_is_picked(tmp_path: Path) -> None:
    keys = ["S_HR/a.png", "S_LR_bicubic/X2/ax2.png", "S_LR_unknown/X2/ax2.png"]
    source = store_of(tmp_path / "in", *keys)
    with pytest.raises(ConfigError, match=r"lr=PLACE.*S_LR_bicubic.*S_LR_unknown"):
        find_pairs(source)
    for place in ("S_LR_unknown", "S_LR_unknown/X2"):
        pairing = find_pairs(source, source.child(place))
        assert pairing is not None
        assert [(p.hr.key, {s: e.key for s, e in p.lr.items()}) for p in pairing.pairs] == [
            (keys[0], {2: keys[2]})
        ]


@pytest.mark.parametrize(
    ("hr", "lr", "low", "scale"),
    [
        ("DIV2K_train_HR", "DIV2K_train_LR_bicubic/X2", "0801x2.png", 2),
        ("DIV2K_train_HR", "DIV2K_train_LR_bicubic", "X2/0801x2.png", 2),
        ("photos", "small", "0801.png", None),
    ],
)
def test_lr_images_may_lie_elsewhere(
    tmp_path: Path, hr: str, lr: str, low: str, scale: int | None
) -> None:
    source, other = store_of(tmp_path / hr, "0801.png"), store_of(tmp_path / lr, low)
    pairing = find_pairs(source, other)
    assert pairing is not None
    (pair,) = pairing.pairs
    assert (pair.hr.key, {s: e.key for s, e in pair.lr.items()}) == ("0801.png", {scale: low})
    with pytest.raises(InputError, match="no images to pair"):
        find_pairs(source, connect(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("lr", "hr", "scale", "expected"),
    [
        ((10, 7), (20, 14), 2, ((10, 7), (20, 14))),
        ((10, 7), (21, 15), 2, ((10, 7), (20, 14))),  # HR cut: hr[0:ih*scale, 0:iw*scale]
        ((33, 40), (99, 121), 3, ((33, 40), (99, 120))),
        ((11, 8), (21, 15), 2, ((10, 7), (20, 14))),  # ceil, as MATLAB's imresize
        ((21, 33), (52, 82), 2.5, ((21, 33), (52, 82))),
        ((21, 33), (54, 84), 2.5, ((21, 33), (52, 82))),
        ((10, 7), (22, 14), 2, None),
        ((10, 7), (30, 21), 2, None),
        ((10, 7), (18, 14), 2, None),
    ],
)
def test_both_are_cropped_to_what_they_share(
    lr: tuple[int, int], hr: tuple[int, int], scale: float, expected: tuple[tuple[int, int], ...]
) -> None:
    low, high = np.zeros((*lr, 3)), np.zeros((*hr, 3))
    if expected is None:
        with pytest.raises(InputError, match="is the scale right"):
            fit(low, high, scale)
    else:
        assert tuple(x.shape[:2] for x in fit(low, high, scale)) == expected
    with pytest.raises(UnsupportedError, match="volume"):
        fit(low[None], high[None], scale)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A texture with detail at every size, like a photograph (power falls with the frequency)."""
    random = np.random.default_rng(0)
    noise = np.fft.fft2(random.normal(size=(256, 320, 3)), axes=(0, 1))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(320), np.fft.fftfreq(256)))
    frequency[0, 0] = 1
    pixels = np.fft.ifft2(noise / frequency[:, :, None], axes=(0, 1)).real
    return rounded(128 + 45 * pixels / pixels.std())


def rounded(pixels: np.ndarray) -> np.ndarray:
    return pixels.round().clip(0, 255).astype(np.uint8)


def compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "jpeg", quality=quality)
    return np.array(PIL.Image.open(buffer))


def noisy(pixels: np.ndarray, sigma: float) -> np.ndarray:
    return rounded(pixels + np.random.default_rng(1).normal(0, sigma, pixels.shape))


@pytest.mark.parametrize("scale", [2, 4])
def test_other_degradations_are_registered(picture: np.ndarray, scale: int) -> None:
    lr = degrade(picture, scale)
    blurred = ndimage.gaussian_filter(picture.astype(float), (scale, scale, 0))
    for low in (
        lr,
        picture[::scale, ::scale],
        picture[scale - 1 :: scale, scale - 1 :: scale],
        rounded(blurred)[scale // 2 :: scale, scale // 2 :: scale],
        noisy(lr, 50),
        compressed(lr, 10),
        rounded(255 * (lr / 255) ** 2.2),
        rounded(0.4 * lr + 70),
        compressed(noisy(blurred[::scale, ::scale], 25), 30),
        lr.mean(axis=2, keepdims=True).astype(np.uint8),
    ):
        check_registration(low, picture, scale)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, -1), (-2, 1), (9, 5)])
def test_a_shift_is_found(picture: np.ndarray, scale: int, down: int, right: int) -> None:
    """Also under noise, and told in LR pixels."""
    moved = np.roll(degrade(picture, scale), (down, right), (0, 1))
    for low in (moved, noisy(moved, 10)):
        with pytest.raises(InputError, match=rf"{right:+d} pixels to the right and {down:+d} down".replace("+", r"\+")):  # fmt: skip
            check_registration(low, picture, scale)


def test_another_picture_is_found(picture: np.ndarray) -> None:
    lr = degrade(picture, 2)
    for other in (lr[::-1], lr[:, ::-1], 255 - lr, np.roll(lr, 64, 1)[::-1], np.zeros_like(lr)):
        with pytest.raises(InputError, match="does not show what its HR image shows"):
            check_registration(other, picture, 2)
    flat = np.full_like(picture, 80)
    check_registration(noisy(degrade(flat, 2), 3), flat, 2)
