"""Benchmarks: pairs of low- and high-resolution images, and the scores of an upscaler on them."""

from __future__ import annotations

import hashlib
import logging
import time
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayscale import strictjson
from rayscale.degradations import BICUBIC, Degradation, draw
from rayscale.errors import ConfigError, InputError, NotFoundError
from rayscale.evaluation.suites import Suite
from rayscale.imaging import Image, read_image
from rayscale.imaging.image import Pixels
from rayscale.imaging.metrics import EDSR_PAPER, PROTOCOLS, Protocol, psnr, ssim
from rayscale.inference import Upscaler
from rayscale.pairs import Partners, check_registration, find_pairs, fit, is_image, make_lr
from rayscale.storage import Entry, Store, connect

logger = logging.getLogger(__name__)

PLACEHOLDER = "{scale}"
"""Stands for the scale in the addresses of benchmarks, as in ``s3://bucket/Set5/x{scale}``."""

STORED = "stored"
"""The degradation of figures whose LR images are those of the benchmark."""

_WARM_UP = 32  # LR pixels a side that are upscaled before the clock starts


@dataclass(frozen=True)
class Pair:
    """One benchmark image: ``hr`` is exactly ``scale`` times as large as ``lr``, fractions of a pixel cut.

    ``digest`` is the sha256 of both files, or of the HR file and the ``degradation`` that made LR of it.
    """

    name: str
    lr: Image
    hr: Image
    digest: str
    degradation: str = STORED


@dataclass(frozen=True)
class ImageScore:
    """The scores of one image: PSNR in dB, SSIM in [-1, 1], the seconds that its upscaling took.

    ``megapixels`` are those of the result; ``measures`` those of a suite, see ``rayscale.evaluation.suites``; ``digest``
    that of its ``Pair``.
    """

    name: str
    psnr: float
    ssim: float
    seconds: float
    megapixels: float
    measures: dict[str, float] = field(default_factory=dict)
    digest: str = ""

    def to_dict(self) -> dict[str, object]:
        """All of it on one level."""
        values = {key: value for key, value in vars(self).items() if key != "measures"}
        return {**values, **self.measures}


@dataclass(frozen=True)
class Report:
    """The scores of one model on one set at one scale; the means are over images, as in every paper.

    They belong to ``protocol``, which compares, and to ``degradation``, which made the LR images.
    """

    model: str
    scale: float
    protocol: str
    images: list[ImageScore] = field(default_factory=list)
    degradation: str = STORED

    @property
    def is_of_the_benchmark(self) -> bool:
        """Whether LR is that of the benchmark, or what it was made by, so that published figures are of the same."""
        return self.degradation in (STORED, str(BICUBIC))

    @property
    def psnr(self) -> float:
        return sum(image.psnr for image in self.images) / len(self.images)

    @property
    def ssim(self) -> float:
        return sum(image.ssim for image in self.images) / len(self.images)

    @property
    def measures(self) -> dict[str, float]:
        """The means of what a suite measures; empty without one."""
        return {
            name: sum(image.measures[name] for image in self.images) / len(self.images)
            for name in self.images[0].measures
        }

    @property
    def benchmark(self) -> str:
        """Which images were scored, as ``identify`` tells."""
        return identify(self.scale, self.protocol, (image.digest for image in self.images))

    @property
    def seconds_per_megapixel(self) -> float:
        """Seconds of upscaling per megapixel of the results."""
        return sum(i.seconds for i in self.images) / sum(i.megapixels for i in self.images)

    def to_dict(self) -> dict[str, object]:
        """The machine-readable form printed by ``rayscale evaluate --json``."""
        return {
            "model": self.model,
            "scale": self.scale,
            "protocol": self.protocol,
            "degradation": self.degradation,
            "benchmark": self.benchmark,
            "psnr": self.psnr,
            "ssim": self.ssim,
            "seconds": sum(image.seconds for image in self.images),
            **self.measures,
            "images": [image.to_dict() for image in self.images],
        }


def at_scale(text: str, scale: float) -> str:
    """The text with its scale filled in, as ``2`` or ``2.5``; other braces stay as they are."""
    return text.replace(PLACEHOLDER, f"{scale:g}")


def identify(scale: float, protocol: str, pairs: Iterable[str]) -> str:
    """sha256 of a benchmark: figures can be compared where it is the same, wherever the files lie and whatever they are called.

    It is over the ``digest`` of each pair, the scale, and how ``protocol`` compares them.
    """
    how = PROTOCOLS[protocol]
    parts = [f"{scale:g}", how.name, how.luma, how.margin, sorted(pairs)]
    return hashlib.sha256(strictjson.dumps(parts).encode()).hexdigest()


def check_scales(uri: str, scales: Iterable[float]) -> None:
    """Raise ConfigError unless the address of a benchmark holds each of several scales: by ``{scale}``, or by the names in it."""
    wanted = set(scales)
    if len(wanted) < 2 or PLACEHOLDER in uri:
        return
    pairing = find_pairs(connect(uri))
    if pairing is None or wanted - set(pairing.scales):
        raise ConfigError(
            f"{uri} does not have the scales {', '.join(f'x{scale:g}' for scale in sorted(wanted))}; put {PLACEHOLDER} where the "
            f"address names the scale, such as {uri}/x{PLACEHOLDER}"
        )


def _partners(store: Store, scale: float | None = None) -> dict[str, Partners]:
    """Image name -> files; the errors of :func:`read_pairs` on names."""
    pairing = find_pairs(store)
    if pairing is None:
        raise NotFoundError(
            f"{store.uri} has no pairs of images; a benchmark holds HR/ and LR/ of one scale, with names like a.png or "
            "a_HR.png and a_LR.png, or HR/ and LR_bicubic/X2 with names like ax2.png"
        )
    if pairing.alone:
        raise NotFoundError(
            f"{store.uri}: "
            + ", ".join(f"{key} {why}" for key, why in sorted(pairing.alone.items())[:5])
        )
    pairs = pairing.pairs
    if scale is not None:
        pairs = [pair for pair in pairs if pair.at(scale)]
        if not pairs:
            known = ", ".join(f"x{known}" for known in pairing.scales)
            raise NotFoundError(f"{store.uri} has pairs of {known}, none of x{scale:g}")
    partners = {pair.name: pair for pair in pairs}
    if len(partners) < len(pairs):
        raise NotFoundError(
            f"{store.uri} has pairs of several scales; name one, such as {store.uri}/x{{scale}}"
        )
    return partners


def _originals(store: Store, scale: float) -> dict[str, Entry]:
    """Image name -> HR file: those of pairs, or all images where there are none."""
    pairing = find_pairs(store)
    if pairing is not None:
        found = {pair.name: pair.hr for pair in pairing.pairs if pair.bound in (None, scale)}
    else:
        found = {entry.key: entry for entry in store.list() if is_image(entry.key)}
    if not found:
        raise NotFoundError(f"{store.uri} has no images to make LR images of at x{scale:g}")
    return found


def list_pairs(uri: str | Path, scale: float, degradation: Degradation | None = None) -> list[str]:
    """The names of the pairs of a benchmark, sorted; arguments and NotFoundError as for :func:`read_pairs`."""
    store = connect(uri)
    return sorted(_originals(store, scale)) if degradation else list(_partners(store, scale))


def parse_degradation(text: str | None) -> Degradation | None:
    """What ``read_pairs`` takes; None and ``stored`` are the LR images of the benchmark."""
    return None if text in (None, STORED) else Degradation.parse(text)


def _make_pairs(
    store: Store, scale: float, names: Collection[str] | None, degradation: Degradation
) -> Iterator[Pair]:
    """Pairs whose LR is made of HR; what is drawn depends on the name alone."""
    if scale != int(scale):
        raise ConfigError(f"{degradation} makes LR images of whole scales, not of x{scale:g}")
    for name, entry in sorted(_originals(store, scale).items()):
        if names is not None and name not in names:
            continue
        data = store.read(entry.key)
        hr = read_image(data)
        try:
            lr = make_lr(hr, int(scale), degradation, draw(0, 0, zlib.crc32(name.encode())))
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        digest = hashlib.sha256(hashlib.sha256(data).digest() + str(degradation).encode())
        cropped = hr.pixels[: int(scale) * lr.height, : int(scale) * lr.width]
        yield Pair(name, lr, _crop(hr, cropped), digest.hexdigest(), str(degradation))


def read_pairs(
    uri: str | Path,
    scale: float,
    names: Collection[str] | None = None,
    degradation: Degradation | None = None,
) -> Iterator[Pair]:
    """The pairs of one scale in a benchmark folder or bucket, in any layout of ``rayscale.pairs``.

    HR is cropped to ``scale`` times LR. ``names`` picks some of them. Logs a warning where LR does not show what HR shows.
    With ``degradation`` LR is made of HR, and a folder of images without LR will do.

    Raises:
        NotFoundError: there are no pairs, or an image has no partner.
        InputError: an HR image is not ``scale`` times its LR image.
        ConfigError: the images cannot be degraded so.
    """
    store = connect(uri)
    if degradation is not None:
        yield from _make_pairs(store, scale, names, degradation)
        return
    for name, partners in _partners(store, scale).items():
        if names is not None and name not in names:
            continue
        low = partners.at(scale)
        assert low is not None
        files = [store.read(low.key), store.read(partners.hr.key)]
        lr, hr = map(read_image, files)
        try:
            pixels = fit(lr.pixels, hr.pixels, scale)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        if float(scale).is_integer():
            try:
                check_registration(*pixels, int(scale))
            except InputError as error:
                logger.warning("%s: %s: %s", uri, name, error)
        digest = hashlib.sha256(b"".join(hashlib.sha256(file).digest() for file in files))
        lr, hr = map(_crop, (lr, hr), pixels)
        yield Pair(name, lr, hr, digest.hexdigest())


def _crop(image: Image, pixels: Pixels) -> Image:
    """The image with fewer pixels; itself where none are cut."""
    if pixels.shape == image.pixels.shape:
        return image
    rows, columns = (slice(side) for side in pixels.shape[:2])
    alpha = None if image.alpha is None else image.alpha[rows, columns]
    missing = None if image.missing is None else image.missing.cropped(rows, columns)
    return replace(image, pixels=pixels, alpha=alpha, missing=missing)


def evaluate(
    upscaler: Upscaler,
    pairs: Iterable[Pair],
    *,
    name: str | None = None,
    protocol: Protocol = EDSR_PAPER,
    suite: Suite | None = None,
) -> Report:
    """Upscale every LR image and score it against its HR image under ``protocol``, and by ``suite`` besides."""
    images: list[ImageScore] = []
    degradation = STORED
    for pair in pairs:
        degradation = pair.degradation
        if not images:  # the first use of a network costs what no later one does
            first = _as_channels(pair.lr, upscaler.predictor.model.channels)
            upscaler.upscale_pixels(first.pixels[:_WARM_UP, :_WARM_UP])
        start = time.perf_counter()
        pixels = enlarge_pair(upscaler, pair)
        seconds = time.perf_counter() - start
        hr, lr = pair.hr.pixels, pair.lr.pixels
        images.append(
            ImageScore(
                pair.name,
                psnr(pixels, hr, protocol, upscaler.scale),
                ssim(pixels, hr, protocol, upscaler.scale),
                seconds,
                pair.hr.height * pair.hr.width / 1e6,
                {} if suite is None else suite(pixels, hr, lr, upscaler.scale),
                pair.digest,
            )
        )
    label = name or upscaler.predictor.model.spec.system
    return Report(
        label + "+" * upscaler.options.ensemble, upscaler.scale, protocol.name, images, degradation
    )


def enlarge_pair(upscaler: Upscaler, pair: Pair) -> Pixels:
    """The LR image enlarged to the shape of its HR image, as it is to be measured.

    A grey image is measured as grey; for a colour model it is repeated over the model's channels, as the
    published evaluations do, and the mean of the output channels is measured.
    """
    sr = upscaler.upscale(_as_channels(pair.lr, upscaler.predictor.model.channels))
    return _grey_again(sr.pixels, pair.hr.channels)


def _as_channels(image: Image, channels: int) -> Image:
    if image.channels == 1 and channels > 1:
        repeated: npt.NDArray[Any] = np.repeat(image.pixels, channels, axis=2)
        return image.with_pixels(repeated)
    return image


def _grey_again(pixels: Pixels, channels: int) -> Pixels:
    if channels == 1 and pixels.shape[2] > 1:
        grey: Pixels = np.rint(pixels.mean(axis=2, keepdims=True)).astype(pixels.dtype)
        return grey
    return pixels
