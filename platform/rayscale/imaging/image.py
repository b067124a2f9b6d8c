"""The :class:`Image`: pixels plus what its container must keep; and :class:`Header`, the same unread.

No bytes are parsed here, see ``containers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError, UnsupportedError, quantity, shown
from rayscale.imaging.description import Description
from rayscale.imaging.levels import PICTURE_TYPES, PIXEL_TYPES, Levels
from rayscale.imaging.missing import Missing
from rayscale.options import Handling

Pixels = NDArray[Any]

CONTAINER_NAMES = ("png", "jpeg", "tiff", "webp", "geotiff", "dicom", "nifti", "nifti-gz")
"""Of the formats that are read and written; ``rayscale.imaging.CONTAINERS`` has them."""


class Metadata(Protocol):
    """What one container alone knows of its file: geometry, patient, tags. Its writer needs it whole."""

    @property
    def containers(self) -> tuple[str, ...]:
        """The only containers that can hold it."""

    def scaled(self, scale: float) -> Metadata:
        """The same for pixels enlarged by ``scale`` on the grid of ``rayscale.resampling.upsample``."""

    def describe(self) -> dict[str, Any]:
        """What may be shown of it: where the pixels lie and what their values are; nothing about a patient."""

    def of_deviations(self) -> Metadata:
        """The same for float32 standard deviations of the stored values, NaN where none are known.

        Raises UnsupportedError when the container has no place for such values.
        """


@dataclass(frozen=True)
class Header:
    """What a file claims to hold, known without decoding it.

    ``width`` and ``height`` are those of the upright picture, as :func:`rayscale.imaging.read_image`
    returns it. ``channels`` leaves alpha out. ``pages`` counts full pictures (TIFF pages, frames of animations), ``slices``
    those of one volume, which are read together.
    """

    container: str
    width: int
    height: int
    channels: int
    bits: int
    pages: int = 1
    alpha: bool = False
    slices: int = 1

    @property
    def pixels(self) -> int:
        """Pixels of all slices."""
        return self.width * self.height * self.slices

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the decoded picture, alpha included."""
        return self.pixels * (self.channels + self.alpha) * (self.bits // 8)


@dataclass(frozen=True, eq=False)
class Image:
    """One picture and everything its file must keep when it is written at another size.

    Args:
        pixels: ``(H, W, C)``, or ``(N, H, W, C)`` for a volume or frames that are enlarged one by one. C is 1 for
            grey, 3 for RGB, any number for bands. Alpha is never among the channels.
        container: name of the format to write, a key of ``rayscale.imaging.CONTAINERS``.
        alpha: ``(H, W)`` of the dtype of ``pixels``, or None. TIFF colours that were multiplied by
            alpha stay so; ``encoding["extrasamples"]`` tells.
        icc: colour profile, byte for byte.
        dpi: pixels per inch ``(x, y)``.
        text: remarks of the file (PNG text chunks, the JPEG comment, text tags of TIFF and EXIF).
        description: EXIF, XMP and IPTC, None when the file has none.
        encoding: how the source was stored (quality, compression, tiles), and ``lossless``; each writer takes what it
            knows and ignores the rest.
        levels: which values are black and white; None is the full range of uint8 or uint16.
        missing: pixels without a measurement, None when there are none.
        metadata: what only ``container`` knows and must keep.
        labels: channels of class numbers or bit fields, which are enlarged by nearest neighbour and never change a value.
        notes: what whoever uses the file must know of how it was read, a sentence each: no error, and shown by every
            door. Not written into files.

    Raises:
        UnsupportedError: a container that is not one of those; a pixel type that is not handled, or one other than uint8 and uint16 without levels.
        InputError: arrays of another shape, or none.
    """

    pixels: Pixels
    container: str = "png"
    alpha: Pixels | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: dict[str, str] = field(default_factory=dict)
    description: Description | None = None
    encoding: dict[str, Any] = field(default_factory=dict)
    levels: Levels | None = None
    missing: Missing | None = None
    metadata: Metadata | None = None
    labels: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, values in (("pixels", self.pixels), ("alpha", self.alpha)):
            if not isinstance(values, np.ndarray) and (values is not None or what == "pixels"):
                raise InputError(f"{what} must be a numpy array, not {shown(values)}")
        if self.container not in CONTAINER_NAMES:
            raise UnsupportedError(
                f"container {shown(self.container)} is not one of {', '.join(CONTAINER_NAMES)}"
            )
        if self.pixels.dtype not in (PICTURE_TYPES if self.levels is None else PIXEL_TYPES):
            raise UnsupportedError(
                f"pixels are {self.pixels.dtype}; only uint8 and uint16 are handled"
                + ("" if self.levels is None else f", and {', '.join(map(str, PIXEL_TYPES[1:]))}")
            )
        if self.pixels.ndim not in (3, 4) or 0 in self.pixels.shape:
            raise InputError(
                f"pixels have shape {self.pixels.shape}; needed (height, width, channels), none of them 0"
            )
        if self.alpha is not None and (
            self.alpha.shape != self.pixels.shape[:2] or self.alpha.dtype != self.pixels.dtype
        ):
            raise InputError(
                f"alpha is {self.alpha.dtype} {self.alpha.shape}, but the pixels are "
                f"{self.pixels.dtype} {self.pixels.shape}: height, width and dtype must be equal"
            )

    @property
    def height(self) -> int:
        return int(self.pixels.shape[-3])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[-2])

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[-1])

    @property
    def measured(self) -> tuple[int, ...]:
        """The channels that are not labels."""
        return tuple(channel for channel in range(self.channels) if channel not in self.labels)

    @property
    def bits(self) -> int:
        """Bits of one stored value: 8, 16, 32 or 64."""
        return self.pixels.dtype.itemsize * 8

    @property
    def peak(self) -> int:
        """The value of white of a picture of uint8 or uint16."""
        return (1 << self.bits) - 1

    @property
    def frames(self) -> int:
        """Pictures in the file: slices of a volume, otherwise 1."""
        return int(self.pixels.shape[0]) if self.pixels.ndim == 4 else 1

    @property
    def unseen(self) -> Missing | None:
        """Pixels whose values must not reach their neighbours: missing ones, and colours under an alpha of 0.

        Writers leave any colour there, mostly black. Colours that are multiplied by alpha already are none.
        """
        if self.alpha is None or 1 in self.encoding.get("extrasamples", ()):
            return self.missing
        visible = self.alpha[:, :, None] > 0
        if self.missing is None:
            return None if visible.all() else Missing(visible)
        return Missing(self.missing.valid & visible, self.missing.reserved)

    def check_picture(self, purpose: str) -> None:
        """Raise UnsupportedError unless this is one whole picture of uint8 or uint16, from black to white.

        ``purpose`` is what cannot work with anything else (training, scoring); measurements can only be upscaled.
        """
        if self.pixels.ndim == 4:
            raise UnsupportedError(
                f"{purpose} needs single pictures, not a volume of {quantity(self.frames, 'slice')}"
            )
        if self.pixels.dtype not in PICTURE_TYPES:
            raise UnsupportedError(
                f"{purpose} needs uint8 or uint16 pixels, not {self.pixels.dtype}; convert the image"
            )
        if self.missing is not None and not self.missing.valid.all():
            raise UnsupportedError(
                f"{purpose} needs complete pictures, but pixels are missing here; cut them off"
            )

    def of_deviations(self, values: NDArray[np.float32]) -> Image:
        """An image of the standard deviations of the values of this one, of the shape of ``pixels``, in its units.

        At the same place in the same container, NaN where pixels are missing; beside a picture it is a plain TIFF.
        Raises UnsupportedError when the container cannot hold them.
        """
        metadata = None if self.metadata is None else self.metadata.of_deviations()
        if self.missing is not None:
            values = np.where(self.missing.valid, values, np.float32(np.nan))
        return Image(
            pixels=values,
            container="tiff" if metadata is None else self.container,
            dpi=self.dpi,
            levels=self.levels or Levels.of_type(self.pixels.dtype),
            missing=Missing.where(np.isfinite(values)),
            metadata=metadata,
        )

    def of_channels(self, channels: Sequence[int]) -> Image:
        """The pixels of some channels, with their levels and what is missing of them."""
        at, missing, levels = list(channels), self.missing, self.levels
        if missing is not None and missing.valid.shape[-1] > 1:
            missing = replace(missing, valid=missing.valid[..., at])
        if levels is not None and len(levels.black) > 1:
            black, white = (tuple(ends[c] for c in at) for ends in (levels.black, levels.white))
            levels = replace(levels, black=black, white=white)
        pixels = np.ascontiguousarray(self.pixels[..., at])
        return replace(self, pixels=pixels, missing=missing, levels=levels, labels=())

    def without_loss(self) -> Image:
        """The same file, to be written so that reading gives these very pixels; errors as in :func:`check_lossless`."""
        check_lossless(self.container)
        return replace(self, encoding={**self.encoding, "lossless": True})

    def handle(self, handling: Handling) -> Image:
        """The same file under the user's levels and metadata policy; its reader has applied the rest."""
        image = self
        if handling.levels is not None:
            image = replace(
                image, levels=Levels.of_setting(self.pixels.dtype, handling.levels, self.levels)
            )
        if handling.metadata == "strip":
            image = replace(image, text={}, description=None)
        return image

    @property
    def fitted_description(self) -> Description | None:
        """The description for the pixels as they are now: the one to be written."""
        fits = self.description
        return None if fits is None else fits.fitted(self.width, self.height)

    def with_pixels(self, pixels: Pixels, alpha: Pixels | None = None) -> Image:
        """The same file with other pixels; alpha is given anew because its size goes with them."""
        return replace(self, pixels=pixels, alpha=alpha)

    def with_notes(self, *notes: str) -> Image:
        """The same file with notes added."""
        return replace(self, notes=self.notes + notes)

    def with_text(self, **remarks: str) -> Image:
        """The same file with remarks added, an existing one of the same name replaced."""
        return replace(self, text={**self.text, **remarks})


def check_lossless(container: str) -> None:
    """Raise UnsupportedError for the container that cannot keep every pixel: JPEG."""
    if container == "jpeg":
        raise UnsupportedError(
            "JPEG would change the pixels again that consistency corrects or that are labels; write PNG (an output that ends in "
            ".png, or inputs converted to it), or leave consistency out"
        )
