"""Pairs of one picture at low and at high resolution: which file belongs to which, and whether the two fit.

Files are matched by name, in the layouts of the field:

=================  ===========================  ====================================
DIV2K, Flickr2K    ``DIV2K_train_HR/0801.png``  ``DIV2K_train_LR_bicubic/X2/0801x2.png``
EDSR-PyTorch       ``HR/a.png``                 ``LR_bicubic/X2/ax2.png``
benchmarks         ``x2/HR/a_HR.png``           ``x2/LR/a_LR.png``
plain              ``HR/a.png``                 ``LR/a.png``, ``LR/x2/a.png``
BasicSR            ``GTmod12/a.png``            ``LRbicx2/a.png``
RealSR             ``2/a_HR.png``               ``2/a_LR2.png``
=================  ===========================  ====================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rayscale.degradations import BICUBIC, Degradation
from rayscale.errors import ConfigError, InputError, UnsupportedError
from rayscale.imaging import Image, ending_of, is_nameless
from rayscale.resampling import degrade, enlarged
from rayscale.storage import Entry, Store, is_hidden

Pixels = npt.NDArray[Any]

_PART = r"(?:[_-](?P<part>train|valid|val|test))?"
_HR = re.compile(rf"(?:(?P<set>.+)[_-])?(?:HR|GT)(?:mod\d+)?{_PART}(?:[_-]sub)?", re.I)
_LR = re.compile(
    rf"(?:(?P<set>.+)[_-])?LR{_PART}(?P<kind>[_-]?[a-z]*?)(?:[_-]?x(?P<scale>\d+))?(?:[_-]sub)?",
    re.I,
)
_SCALE = re.compile(r"x(?P<scale>\d+)(?:[_-]sub)?", re.I)
_FILE = re.compile(r"(?P<stem>.+)[._-](?:(?P<hr>HR)|LR(?:[_-]?x?(?P<scale>\d+))?)", re.I)
_STEM = re.compile(r"(?P<stem>.+?)[_-]?x(?P<scale>\d+)(?:[md]|w\d)?", re.I)  # 0801x2, 0801x4m

_VIEW = 256  # LR pixels a side that are compared
_ALIKE = 0.7  # least correlation of a pair
_FLAT = 2.0  # standard deviation in stored units below which a picture cannot be told from another


@dataclass(frozen=True)
class Partners:
    """The files of one picture.

    Attributes:
        name: the picture, without endings such as ``_HR`` or ``x2``, after the folders that pairs share.
        hr: at high resolution.
        lr: at low resolution by scale; the key is None where no name tells the scale.
        bound: the scale that ``hr`` was cropped for (``x2/HR``), None where it serves all.
    """

    name: str
    hr: Entry
    lr: Mapping[int | None, Entry]
    bound: int | None = None

    def at(self, scale: float) -> Entry | None:
        """The LR file of a scale, or the one that does not tell its scale."""
        return self.lr.get(None) if scale not in self.lr else self.lr[int(scale)]


@dataclass(frozen=True)
class Pairing:
    """What a source has: pairs sorted by name, and images without a partner with the reason."""

    pairs: list[Partners] = field(default_factory=list)
    alone: dict[str, str] = field(default_factory=dict)

    @property
    def scales(self) -> list[int]:
        """Those that names tell."""
        return sorted({scale for pair in self.pairs for scale in pair.lr if scale is not None})


@dataclass(frozen=True)
class _Name:
    """What the name of a file says."""

    entry: Entry
    stem: str
    sets: tuple[str, ...]
    role: Literal["HR", "LR"] | None = None
    scale: int | None = None
    root: str = ""
    """The folder that makes it LR, below which all images are of one degradation."""


def is_image(key: str) -> bool:
    """Whether an object is meant as an image, judged by its name."""
    name = PurePosixPath(key).name
    return not is_hidden(key) and bool(ending_of(name) or is_nameless(name))


def has_both(entries: Iterable[Entry]) -> bool:
    """Whether some of the images are HR and some LR by their names; nothing is kept in memory."""
    roles = set()
    for entry in entries:
        if is_image(entry.key):
            roles.add(_parse(entry).role)
            if roles >= {"HR", "LR"}:
                return True
    return False


def without_lr(entries: Iterable[Entry]) -> list[Entry]:
    """The entries, LR images left out where there are HR ones as well."""
    names = [_parse(entry) for entry in entries]
    paired = any(name.role == "HR" for name in names)
    return [name.entry for name in names if not (paired and name.role == "LR")]


def find_pairs(
    source: Store, lr: Store | None = None, entries: Iterable[Entry] | None = None
) -> Pairing | None:
    """The pairs below ``source`` by its layout; None where it has no folders or names of both HR and LR.

    Args:
        source: holds HR and LR images; only HR with ``lr``.
        lr: the folder of the LR images. Inside ``source`` it picks one of several (``LR_bicubic``, ``LR_unknown``); anywhere
            else its files are matched by name alone.
        entries: those of ``source``, where they are known.

    Raises:
        ConfigError: LR images of several degradations, and ``lr`` does not say which.
        InputError: two files are the same image, or no LR image has the name of an HR image.
    """
    entries = source.list() if entries is None else entries
    names = [_parse(entry) for entry in entries if is_image(entry.key)]
    low = [name for name in names if name.role == "LR"]
    high = [name for name in names if name.role == "HR"]
    if lr is not None:
        inside = f"{source.uri.rstrip('/')}/"
        below = f"{lr.uri.rstrip('/')}/".removeprefix(inside)
        if below != f"{lr.uri.rstrip('/')}/":
            low = [name for name in names if name.entry.key.startswith(below)]
            names = [name for name in names if name not in low]
        else:
            low = [_parse(entry, lr) for entry in lr.list() if is_image(entry.key)]
        low = [_Name(n.entry, n.stem, n.sets, "LR", n.scale, below) for n in low]
        high = high or [name for name in names if name.role is None]
        if not {name.sets for name in low} & {name.sets for name in high}:
            low, high = ([_Name(n.entry, n.stem, (), n.role, n.scale) for n in ns] for ns in (low, high))  # fmt: skip
        if not (low and high):
            raise InputError(f"{(lr if high else source).uri} has no images to pair")
    if not (low and high):
        return None
    roots = sorted({name.root for name in low})
    kinds = {(_LR.fullmatch(root.rpartition("/")[2]) or {"kind": ""})["kind"] for root in roots}
    if len(kinds) > 1:
        raise ConfigError(
            f"{source.uri} has LR images of several degradations; say which with lr=PLACE, or move the others away: "
            + ", ".join(source.locate(root) for root in roots)
        )
    pairing = _match(high, low)
    used = {name.entry.key for name in (*high, *low)}
    for name in names:
        if name.entry.key not in used and name.role is None:
            pairing.alone[name.entry.key] = "lies neither among the HR nor the LR images"
    if not pairing.pairs:
        raise InputError(
            f"{source.uri} has {len(high)} HR and {len(low)} LR images, but none has the name of another, as {high[0].entry.key} "
            f"and {low[0].entry.key}; rename them"
        )
    return pairing


def _parse(entry: Entry, lr: Store | None = None) -> _Name:
    """Split a key into what it says."""
    path = PurePosixPath(entry.key)
    stem = path.name[: len(path.name) - len(ending_of(path.name))]
    parts = list(path.parts[:-1])
    # The last folders of an address are those of its keys: .../LR_bicubic/X2
    above = PurePosixPath(lr.uri).parts[-2:] if lr is not None else ()
    role: Literal["HR", "LR"] | None = None
    scale: int | None = None
    sets: list[str] = []
    root = ""
    for number, part in enumerate((*above, *parts)):
        own = number >= len(above)
        if match := _SCALE.fullmatch(part):
            scale = int(match["scale"])
        elif role is None and (match := _HR.fullmatch(part) or _LR.fullmatch(part)):
            role = "HR" if match.re is _HR else "LR"
            sets += [match[name].lower() for name in ("set", "part") if match[name] and own]
            if role == "LR":
                scale = int(match["scale"]) if match["scale"] else scale
                root = "/".join(parts[: number - len(above) + 1])
        elif own:
            sets.append(part.lower())
    if match := _FILE.fullmatch(stem):
        stem, told = match["stem"], "HR" if match["hr"] else "LR"
        if role is None:
            role = "HR" if told == "HR" else "LR"
        if match["scale"]:
            scale = int(match["scale"])
    return _Name(entry, stem, tuple(sets), role, scale, root)


def _match(high: Iterable[_Name], low: Iterable[_Name]) -> Pairing:
    originals: dict[tuple[Any, ...], _Name] = {}
    for name in high:
        place = (name.sets, name.stem, name.scale)
        other = originals.setdefault(place, name)
        if other is not name:
            raise _twice(name, other)
    found: dict[str, dict[int | None, Entry]] = {}
    pairing = Pairing()
    for name in low:
        for stem, scale in _readings(name):
            places = ((name.sets, stem, bound) for bound in dict.fromkeys((scale, None)))
            hr = next((originals[place] for place in places if place in originals), None)
            if hr is not None:
                versions = found.setdefault(hr.entry.key, {})
                if scale in versions:
                    raise _twice(name, versions[scale])
                versions[scale] = name.entry
                break
        else:
            pairing.alone[name.entry.key] = "has no HR image of its name"
    for name in originals.values():
        if name.entry.key in found:
            label = "/".join((*name.sets, name.stem))
            pairing.pairs.append(
                Partners(label, name.entry, found[name.entry.key], bound=name.scale)
            )
        else:
            pairing.alone[name.entry.key] = "has no LR image of its name"
    pairing.pairs.sort(key=lambda pair: (pair.name, pair.hr.key))
    return pairing


def _readings(name: _Name) -> Iterator[tuple[str, int | None]]:
    """Stem and scale of an LR image: as it is, and with the scale taken from the end of the stem."""
    yield name.stem, name.scale
    if match := _STEM.fullmatch(name.stem):
        yield match["stem"], name.scale or int(match["scale"])


def _twice(name: _Name, other: _Name | Entry) -> InputError:
    second = other.key if isinstance(other, Entry) else other.entry.key
    return InputError(
        f"{name.entry.key} and {second} are both taken for the same image; leave one out or rename it"
    )


def fit(lr: Pixels, hr: Pixels, scale: float) -> tuple[Pixels, Pixels]:
    """LR and HR ``(H, W, C)`` cropped at the bottom and right to what they share, as EDSR-PyTorch does.

    HR becomes ``scale`` times LR. Where LR was made with a last pixel of a fraction of HR pixels (MATLAB rounds up), that
    pixel goes.

    Raises:
        InputError: the sides differ by more than a pixel of LR. UnsupportedError: volumes.
    """
    if lr.ndim != 3 or hr.ndim != 3:
        raise UnsupportedError("pairs are single pictures; split a volume into its slices")
    sides = [_fit_side(a, b, scale) for a, b in zip(lr.shape[:2], hr.shape[:2], strict=True)]
    if None in sides:
        height, width = (enlarged(side, scale) for side in lr.shape[:2])
        raise InputError(
            f"HR is {hr.shape[1]}x{hr.shape[0]}, but LR {lr.shape[1]}x{lr.shape[0]} at x{scale:g} makes "
            f"{width}x{height}; is the scale right?"
        )
    (a, b), (c, d) = (side for side in sides if side is not None)
    return lr[:a, :c], hr[:b, :d]


def _fit_side(lr: int, hr: int, scale: float) -> tuple[int, int] | None:
    whole, shorter = enlarged(lr, scale), enlarged(lr - 1, scale)
    if 0 < whole <= hr < enlarged(lr + 1, scale):
        return lr, whole
    return (lr - 1, shorter) if 0 < shorter < hr < whole else None


def make_lr(
    image: Image, scale: int, how: Degradation = BICUBIC, random: np.random.Generator | None = None
) -> Image:
    """The LR image of an HR image: what is missing or transparent is filled first, alpha is always shrunk by bicubic.

    Raises:
        ConfigError: see ``Degradation.apply``. InputError: it is smaller than the scale, or a volume.
    """
    image.check_picture("making a low-resolution image")
    alpha = None if image.alpha is None else degrade(image.alpha[..., None], scale)[..., 0]
    dpi = None if image.dpi is None else (image.dpi[0] / scale, image.dpi[1] / scale)
    metadata = None if image.metadata is None else image.metadata.scaled(1 / scale)
    unseen, pixels = image.unseen, image.pixels
    if unseen is not None:
        reach = max(pixels.shape) if how.needs_whole else 2 * how.reach(scale) * scale
        pixels = unseen.filled(pixels, math.isqrt(2 * reach**2))
    pixels = how.apply(pixels, scale, random)
    return replace(image, pixels=pixels, alpha=alpha, dpi=dpi, metadata=metadata)


def check_registration(lr: Pixels, hr: Pixels, scale: int) -> None:
    """Raise InputError unless LR shows what HR shows, at the same place.

    The middle of LR is compared with HR made small by bicubic, both smoothed, by their correlation: other kernels, blur,
    noise, compression, another brightness or contrast pass. A shift is an error when the pictures differ
    less than half as much with it. Nothing is said of pictures that are flat.

    Args:
        lr: ``(h, w, C)``. hr: ``(scale h, scale w, C)``.
    """
    height, width = (min(side, _VIEW) for side in lr.shape[:2])
    top, left = (lr.shape[0] - height) // 2, (lr.shape[1] - width) // 2
    part = hr[
        top * scale : (top + height) * scale, left * scale : (left + width) * scale
    ].mean(axis=2, keepdims=True)  # fmt: skip
    expected = degrade(part, scale)[:, :, 0]
    if expected.std() < _FLAT:
        return
    seen = lr[top : top + height, left : left + width].mean(axis=2)
    expected, seen = _smooth(expected), _smooth(seen)
    here = _correlation(expected, seen, 0, 0)
    down, right = _best_shift(expected, seen)
    there = _correlation(expected, seen, down, right)
    if (down or right) and there >= _ALIKE and 1 - there < (1 - here) / 2:
        raise InputError(
            f"the LR image lies {right:+d} pixels to the right and {down:+d} down of where its HR image puts it (correlation "
            f"{here:.2f}, moved back {there:.2f})"
        )
    if here < _ALIKE:
        raise InputError(
            f"the LR image does not show what its HR image shows (correlation {here:.2f}, at least {_ALIKE:g} expected)"
        )


def _smooth(pixels: Pixels) -> Pixels:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(pixels.astype(np.float64), 1.0))


def _best_shift(expected: Pixels, seen: Pixels) -> tuple[int, int]:
    """Rows and columns by which ``seen`` lies lower and more to the right: the peak of the cross-correlation."""
    window = np.outer(*(np.hanning(side + 2)[1:-1] for side in expected.shape))
    one, other = (np.fft.rfft2((x - x.mean()) * window) for x in (expected, seen))
    peaks = np.fft.irfft2(other * one.conj(), s=expected.shape)
    shift = np.unravel_index(np.argmax(peaks), peaks.shape)
    down, right = (
        int(s) - side * (s > side // 2) for s, side in zip(shift, peaks.shape, strict=True)
    )
    return down, right


def _correlation(expected: Pixels, seen: Pixels, down: int, right: int) -> float:
    """Of the parts that overlap when ``seen`` lies lower by ``down`` and more to the right by ``right``."""
    height, width = expected.shape
    a = expected[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
    b = seen[max(0, down) : height - max(0, -down), max(0, right) : width - max(0, -right)]
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / spread if spread else 0.0
