"""Benchmarks: pairs of low- and high-resolution images, and the scores of an upscaler on them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayscale.errors import InputError, NotFoundError
from rayscale.imaging import Image, read_image
from rayscale.imaging.metrics import EDSR_PAPER, Protocol, psnr, ssim
from rayscale.inference import Upscaler
from rayscale.storage import Store, connect

_SUFFIX = re.compile(r"[._-](HR|LR)$", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """One benchmark image: ``hr`` is exactly ``scale`` times as large as ``lr``."""

    name: str
    lr: Image
    hr: Image


@dataclass(frozen=True)
class ImageScore:
    """The scores of one image: PSNR in dB, SSIM in [-1, 1], the seconds its upscaling took."""

    name: str
    psnr: float
    ssim: float
    seconds: float


@dataclass(frozen=True)
class Report:
    """The scores of one model on one set at one scale; the means are over images, as in every paper."""

    model: str
    scale: int
    protocol: str
    images: list[ImageScore] = field(default_factory=list)

    @property
    def psnr(self) -> float:
        return sum(image.psnr for image in self.images) / len(self.images)

    @property
    def ssim(self) -> float:
        return sum(image.ssim for image in self.images) / len(self.images)

    def to_dict(self) -> dict[str, object]:
        """The machine-readable form printed by ``rayscale evaluate --json``."""
        return {
            "model": self.model,
            "scale": self.scale,
            "protocol": self.protocol,
            "psnr": self.psnr,
            "ssim": self.ssim,
            "seconds": sum(image.seconds for image in self.images),
            "images": [vars(image) for image in self.images],
        }


def _by_name(store: Store, folder: str) -> dict[str, str]:
    """Image name without its HR/LR ending -> key."""
    keys = (entry.key for entry in store.list(folder + "/"))
    return {_SUFFIX.sub("", Path(key).stem): key for key in keys}


def read_pairs(uri: str, scale: int) -> Iterator[Pair]:
    """The pairs of a benchmark folder or bucket that holds ``HR/`` and ``LR/`` of one scale, by name.

    Names match after removing a trailing ``_HR`` or ``_LR``.

    Raises:
        NotFoundError: there are no pairs, or an image has no partner.
        InputError: an HR image is not ``scale`` times its LR image.
    """
    store = connect(uri)
    hr_keys, lr_keys = _by_name(store, "HR"), _by_name(store, "LR")
    if not hr_keys:
        raise NotFoundError(
            f"no images under {uri}/HR; a benchmark folder holds HR/ and LR/ of one scale, with names like "
            "a_HR.png and a_LR.png"
        )
    lonely = sorted(hr_keys.keys() ^ lr_keys.keys())
    if lonely:
        raise NotFoundError(f"{uri}: {', '.join(lonely[:5])} without a partner in HR/ or LR/")
    for name in sorted(hr_keys):
        lr, hr = read_image(store.read(lr_keys[name])), read_image(store.read(hr_keys[name]))
        if (hr.height, hr.width) != (lr.height * scale, lr.width * scale):
            raise InputError(
                f"{name}: HR is {hr.width}x{hr.height}, but LR {lr.width}x{lr.height} at x{scale} makes "
                f"{lr.width * scale}x{lr.height * scale}; is --scale right?"
            )
        yield Pair(name, lr, hr)


def evaluate(
    upscaler: Upscaler,
    pairs: Iterable[Pair],
    *,
    name: str | None = None,
    protocol: Protocol = EDSR_PAPER,
) -> Report:
    """Upscale every LR image and score it against its HR image under ``protocol``.

    A grey image is measured as grey; for a colour model it is repeated over the model's channels, as the
    published evaluations do, and the mean of the output channels is measured.
    """
    images = []
    for pair in pairs:
        start = time.perf_counter()
        sr = upscaler.upscale(_as_channels(pair.lr, upscaler.model.channels))
        seconds = time.perf_counter() - start
        pixels = _grey_again(sr.pixels, pair.hr.channels)
        images.append(
            ImageScore(
                pair.name,
                psnr(pixels, pair.hr.pixels, protocol, upscaler.scale),
                ssim(pixels, pair.hr.pixels, protocol, upscaler.scale),
                seconds,
            )
        )
    label = name or upscaler.model.spec.system
    return Report(label + "+" * upscaler.ensemble, upscaler.scale, protocol.name, images)


def _as_channels(image: Image, channels: int) -> Image:
    if image.channels == 1 and channels > 1:
        repeated: npt.NDArray[Any] = np.repeat(image.pixels, channels, axis=2)
        return image.with_pixels(repeated)
    return image


def _grey_again(pixels: npt.NDArray[Any], channels: int) -> npt.NDArray[Any]:
    if channels == 1 and pixels.shape[2] > 1:
        mean: npt.NDArray[Any] = np.rint(pixels.mean(axis=2, keepdims=True))
        return mean.astype(pixels.dtype)
    return pixels
