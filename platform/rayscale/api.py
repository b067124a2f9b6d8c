"""The public surface: what ``import rayscale`` offers. Everything here is also a command; both use the same rooms below.

Names are imported when they are first used, so that importing ``rayscale`` takes no time and needs no extra.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rayscale.errors import ConfigError, InputError, expect, shown
from rayscale.imaging import Handling, Image, ending_of
from rayscale.imaging import read_image as decode
from rayscale.imaging import write_image as encode
from rayscale.imaging.files import EXTENSIONS, convert_image
from rayscale.imaging.levels import PICTURE_TYPES, Levels
from rayscale.inference.files import Written, upscale_file
from rayscale.inference.pipeline import Pipeline, pick_by_channels
from rayscale.models.builtin import DEFAULT_SYSTEMS, builtin_names, default_models, read_card
from rayscale.options import Options
from rayscale.registry import open_model as open_named
from rayscale.registry.opening import check_named
from rayscale.storage import connect

if TYPE_CHECKING:
    from rayscale.evaluation.benchmark import Report


class Measured(NamedTuple):
    """What :meth:`Model.run` gives.

    Attributes:
        image: the enlarged image, of the kind that was given.
        residual: ``max`` and ``rms`` of ``|down(SR) - LR|`` in stored units, with the option ``consistency``.
        uncertainty: with the option ``uncertainty``, the standard deviation of each value of ``image`` over the eight
            outputs of the self-ensemble, float32 in its units, NaN where nothing was measured: for arrays and PIL
            images an array, for tensors a tensor, for paths and :class:`Image` an :class:`Image` to be written as TIFF,
            GeoTIFF or NIfTI.
    """

    image: Any
    residual: dict[str, float] | None = None
    uncertainty: Any = None


class Model:
    """A model with its options, ready to upscale; made by :func:`open_model`.

    Attributes:
        name: the built-in name, or ``name/version`` of the registry.
        digest: sha256 of the weights, ``built-in:NAME`` where there are none.
        scale: how many times larger.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.name = pipeline.provenance.model
        self.digest = pipeline.provenance.digest
        self.scale = pipeline.upscaler.scale

    @property
    def options(self) -> Options:
        """What was asked for."""
        return self._pipeline.options

    def upscale(self, image: Any) -> Any:
        """The enlarged image, of the kind that was given.

        Args:
            image: numpy ``(H, W)`` or ``(H, W, C)`` of uint8 or uint16, and of other numbers where the options have
                ``levels``; a torch tensor ``(C, H, W)`` or ``(N, C, H, W)``, floating in 0..1; a PIL image (L, LA, RGB,
                RGBA, I;16); an :class:`Image`; or the path of a file, which is read into an :class:`Image`.

        Raises:
            InputError: another kind, shape or type, a tensor of other values, or a number of channels that the model
                does not take.
            ConfigError: ``consistency`` or ``levels`` with a tensor; both are for stored values. The option
                ``uncertainty``, which :meth:`run` gives.
            OSError: a file that cannot be opened.
        """
        self.options.refuse("uncertainty", "upscale gives the image alone; Model.run gives both")
        return self.run(image).image

    def run(self, image: Any) -> Measured:
        """:meth:`upscale`, with the residual and the uncertainty that were asked for; arguments and errors as there.

        >>> model = rayscale.open_model("bicubic", scale=2, uncertainty=True)
        >>> model.run(numpy.zeros((4, 6, 3), "uint8")).uncertainty.max()
        np.float32(0.0)
        """
        if isinstance(image, str | PathLike):
            return self._enlarge(self._pipeline.read(_local(image).read_bytes()))
        if isinstance(image, Image):
            return self._enlarge(image.handle(self.options))
        if isinstance(image, np.ndarray):
            return self._upscale_array(image)
        kind = type(image).__module__.partition(".")[0]
        if kind == "torch":
            return self._upscale_tensor(image)
        if kind == "PIL":
            return self._upscale_picture(image)
        raise InputError(
            f"cannot upscale {type(image).__name__}; give a numpy array, a torch tensor, a PIL image, a "
            "rayscale Image or a path"
        )

    def upscale_file(self, source: str | Path, target: str | Path) -> Written:
        """One file into another, as :func:`upscale`."""
        return upscale_file(_local(source), _local(target), lambda _: self._pipeline)

    def _enlarge(self, image: Image) -> Measured:
        larger = self._pipeline.enlarge(image)
        return Measured(larger.image, larger.measures.get("residual"), larger.uncertainty)

    def _upscale_array(self, pixels: np.ndarray[Any, Any]) -> Measured:
        if isinstance(pixels, np.ma.MaskedArray):
            raise InputError(
                "a masked array is not handled: its mask would be lost; give masked.filled(VALUE)"
            )
        pixels = np.asarray(pixels, pixels.dtype.newbyteorder("="))
        if pixels.ndim not in (2, 3) or 0 in pixels.shape:
            raise InputError(
                f"expected an array (H, W) or (H, W, C), none of them 0, got shape {pixels.shape}"
            )
        flat, asked = pixels.ndim == 2, self.options.levels
        if asked is None and pixels.dtype not in PICTURE_TYPES:
            raise InputError(
                f"the array is {pixels.dtype}; give uint8 or uint16, or open the model with levels=(BLACK, WHITE), "
                "such as levels=(0, 1)"
            )
        levels = None if asked is None else Levels.of_setting(pixels.dtype, asked)
        image = Image(pixels[..., None] if flat else pixels, "tiff", levels=levels)
        larger = self._enlarge(image)
        at = (..., 0) if flat else ...
        return Measured(larger.image.pixels[at], larger.residual, _pixels(larger.uncertainty, at))

    def _upscale_tensor(self, x: Any) -> Measured:
        import torch

        for name in ("consistency", "levels"):
            self.options.refuse(name, "a tensor has no stored values; give a numpy array")
        if (
            x.ndim not in (3, 4)
            or not x.is_floating_point()
            or x.numel() == 0
            or x.is_meta
            or x.layout != torch.strided
        ):
            raise InputError(
                "expected a dense floating tensor (C, H, W) or (N, C, H, W) in 0..1, none of them 0, got shape "
                f"{tuple(x.shape)} of {x.dtype}, {x.layout}, on {x.device.type}"
            )
        low, high = (float(end) for end in x.detach().aminmax())
        if not 0 <= low <= high <= 1:  # also true for NaN
            raise InputError(
                f"the values of the tensor are {low:g} to {high:g}; scale or clamp them to 0..1"
            )
        predictor = self._pipeline.upscaler.predictor
        value_range = predictor.model.spec.value_range
        batch = (x if x.ndim == 4 else x[None]).detach().float().cpu() * value_range
        parts = [
            predictor.enlarge(batch[:, channels], bits=16)
            for channels in predictor.groups(batch.shape[1])
        ]
        y = torch.cat([part for part, _ in parts], 1) / value_range
        y = y.clamp(0, 1).to(device=x.device, dtype=x.dtype)
        spreads = [spread for _, spread in parts if spread is not None]
        spread = torch.cat(spreads, 1).to(x.device) / value_range if spreads else None
        if x.ndim == 3:
            y, spread = y[0], None if spread is None else spread[0]
        return Measured(y, uncertainty=spread)

    def _upscale_picture(self, picture: Any) -> Measured:
        import PIL.Image

        if picture.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
            raise InputError(
                f"a PIL image of mode {picture.mode} is not handled; convert it to L, RGB or RGBA, or give it as a "
                "numpy array where it has more than 8 bits"
            )
        pixels, alpha = np.asarray(picture), None
        if picture.mode in ("LA", "RGBA"):
            pixels, alpha = pixels[..., :-1], pixels[..., -1]
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        image = Image(pixels, "png", alpha=alpha).handle(self.options)
        larger = self._enlarge(image)
        pixels = larger.image.pixels
        at = (..., 0) if pixels.shape[2] == 1 else ...
        if larger.image.alpha is not None:
            pixels = np.dstack([pixels, larger.image.alpha])
        made = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        made.info = picture.info.copy()  # profile and EXIF, as PIL's own resize keeps them
        return Measured(made, larger.residual, _pixels(larger.uncertainty, at))


def _pixels(image: Image | None, at: Any) -> np.ndarray[Any, Any] | None:
    return None if image is None else image.pixels[at]


def open_model(
    name: str = DEFAULT_SYSTEMS[0],
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> Model:
    """The model called ``name``, with options.

    >>> model = rayscale.open_model("bicubic", scale=2)
    >>> model.upscale(numpy.zeros((4, 6, 3), "uint8")).shape
    (8, 12, 3)

    Args:
        name: a built-in model; ``NAME``, ``NAME@ALIAS`` or ``NAME/VERSION`` of the registry; a system; with ``weights``
            the system of that file.
        weights: a local file, of rayscale or of a foreign toolkit.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        options: as in :class:`rayscale.options.Options`, such as ``scale=2, ensemble=True``.

    Raises ConfigError, NotFoundError, and those of the registry.
    """
    asked = Options.of(options)
    opened = open_named(name, weights=weights, scale=asked.scale)
    return Model(Pipeline(opened, asked, device=device))


def upscale(
    source: str | Path,
    target: str | Path,
    *,
    model: str | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Written:
    """Upscale one file into another; formats as their endings say, scenes by windows, provenance inside.

    >>> rayscale.upscale("scene.tif", "larger.tif", scale=2).width
    96

    Args:
        model: as in :func:`open_model`; None is edsr-baseline for images of three channels, aplus for others.
        progress: called with the number of windows done and of all, for a scene.

    Folders are for the command line, buckets for :func:`upscale_bucket`.
    Raises OSError, and RayscaleError for what cannot be read, enlarged or written.
    """
    asked = Options.of(options)
    names = (model, model) if model is not None else default_models(asked.scale)
    check_named(names[0])
    if weights is not None and model is None:
        names = DEFAULT_SYSTEMS[0], DEFAULT_SYSTEMS[0]
    pipeline_for = pick_by_channels(
        names, lambda name: open_named(name, weights=weights, scale=asked.scale), asked, device
    )
    return upscale_file(_local(source), _local(target), pipeline_for, progress)


def read_image(source: str | Path | bytes, **options: Any) -> Image:
    """Read a file, or the bytes of one, with all that :func:`write_image` must keep.

    >>> rayscale.read_image("photo.png").pixels.shape
    (64, 48, 3)

    Args:
        options: ``levels``, ``labels``, ``metadata``; see :class:`rayscale.imaging.Handling`.

    Raises OSError, ConfigError, InputError, UnsupportedError, TooLargeError.
    """
    handling = Handling.of(options)
    if not isinstance(source, bytes | bytearray | memoryview):
        source = _local(source).read_bytes()
    return decode(bytes(source), handling=handling)


def write_image(image: Image, target: str | Path) -> None:
    """Write an image; the file appears whole or not at all.

    >>> rayscale.write_image(rayscale.read_image("photo.png"), "photo.tif")

    Raises UnsupportedError where the format of the ending cannot hold the image; StorageError.
    """
    if not isinstance(image, Image):
        raise InputError(
            f"cannot write {type(image).__name__}; give an Image, such as rayscale.Image(pixels)"
        )
    path = _local(target)
    ending = ending_of(path.name)
    if not ending:
        raise InputError(
            f"{path}: the ending names no format; use one of {', '.join(sorted(EXTENSIONS))}"
        )
    container = EXTENSIONS[ending]
    if container == "tiff" and image.container == "geotiff":
        container = "geotiff"
    if container != image.container:
        image = convert_image(image, container)
    connect(path.parent).write(path.name, encode(image))


def evaluate(
    model: str | Model,
    data: str | Path,
    *,
    protocol: str = "edsr-paper-y",
    degradation: str | None = None,
    **options: Any,
) -> Report:
    """PSNR and SSIM of a model on a folder or bucket with ``HR/`` and ``LR/``; as published figures are, of the network alone.

    >>> rayscale.evaluate("bicubic", "Set5/x2", scale=2).psnr
    33.66

    Args:
        protocol: ``edsr-paper-y``, ``rgb`` or ``div2k-rgb``.
        degradation: makes the LR images of HR, such as ``mtf:gain=0.3``; None takes those of the folder.
        options: of the model, where it is a name; precision is float32 unless given.
    """
    from rayscale.evaluation import evaluate as score
    from rayscale.evaluation import parse_degradation, read_pairs
    from rayscale.evaluation.suites import check_measures
    from rayscale.imaging.metrics import PROTOCOLS
    from rayscale.inference import Upscaler

    check_measures(protocol)
    expect(model, (str, Model), "a model of rayscale.open_model, or its name")
    if isinstance(model, str):
        model = open_model(model, **{"precision": "float32", **options})
    elif options:
        raise ConfigError(
            f"the model is open already: give {', '.join(options)} to rayscale.open_model"
        )
    for name in ("uncertainty", "format"):
        model.options.refuse(name, "scores are of the images as the network makes them")
    upscaler = Upscaler(model._pipeline.upscaler.predictor.model, model.options, calibrate=False)
    pairs = read_pairs(data, upscaler.scale, degradation=parse_degradation(degradation))
    return score(upscaler, pairs, name=model.name, protocol=PROTOCOLS[protocol])


def _local(path: str | PathLike[str]) -> Path:
    """The path of a file on this machine; ConfigError for another kind of value, and for an address."""
    if not isinstance(path, str | PathLike) or not str(path):
        raise ConfigError(f"expected the path of a file, not {shown(path)}")
    if "://" in str(path):
        raise ConfigError(
            f"{path} is not a path of this machine; rayscale.upscale_bucket reads and writes s3://BUCKET/PREFIX"
        )
    return Path(path)


def list_models() -> list[dict[str, Any]]:
    """The models that come with rayscale: name, summary, licence, figures with their protocol.

    >>> [model["name"] for model in rayscale.list_models()][:2]
    ['bilinear', 'bicubic']
    """
    from rayscale.models.spec import INTERPOLATIONS

    cards = {name: {} if name in INTERPOLATIONS else read_card(name) for name in builtin_names()}
    return [{**card, "name": name} for name, card in cards.items()]
