"""The :class:`Image`: pixels plus what its container must keep; and :class:`Header`, the same unread.

No bytes are parsed here, see ``containers``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError, UnsupportedError

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


@dataclass(frozen=True)
class Header:
    """What a file claims to hold, known without decoding it.

    ``width`` and ``height`` are those of the upright picture, as :func:`rayscale.imaging.read_image`
    returns it. ``channels`` leaves alpha out. ``pages`` counts full pictures (TIFF pages, APNG frames).
    """

    container: str
    width: int
    height: int
    channels: int
    bits: int
    pages: int = 1
    alpha: bool = False

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the decoded picture, alpha included."""
        return self.pixels * (self.channels + self.alpha) * (self.bits // 8)


@dataclass(frozen=True, eq=False)
class Image:
    """One picture and everything its file must keep when it is written at another size.

    Args:
        pixels: ``(H, W, C)``, uint8 or uint16 over the full range of the type; C is 1 for grey,
            3 for RGB, any number for a TIFF of bands. Alpha is never among the channels.
        container: name of the format to write, a key of ``rayscale.imaging.CONTAINERS``.
        alpha: ``(H, W)`` of the dtype of ``pixels``, or None. TIFF colours that were multiplied by
            alpha stay so; ``encoding["extrasamples"]`` tells.
        icc: colour profile, byte for byte.
        dpi: pixels per inch ``(x, y)``.
        text: remarks of the file (PNG text chunks, the JPEG comment, TIFF text tags).
        encoding: how the source was stored (quality, compression, tiles); each writer takes what it
            knows and ignores the rest.

    Raises:
        UnsupportedError: a pixel type other than uint8 and uint16.
        InputError: arrays of another shape.
    """

    pixels: Pixels
    container: str = "png"
    alpha: Pixels | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: dict[str, str] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pixels.dtype not in _DTYPES:
            raise UnsupportedError(
                f"pixels are {self.pixels.dtype}; only uint8 and uint16 are handled"
            )
        if self.pixels.ndim != 3 or 0 in self.pixels.shape:
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
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[2])

    @property
    def bits(self) -> int:
        """8 or 16."""
        return self.pixels.dtype.itemsize * 8

    @property
    def peak(self) -> int:
        """The value of white, 255 or 65535."""
        return (1 << self.bits) - 1

    def with_pixels(self, pixels: Pixels, alpha: Pixels | None = None) -> Image:
        """The same file with other pixels; alpha is given anew because its size goes with them."""
        return replace(self, pixels=pixels, alpha=alpha)

    def with_text(self, **remarks: str) -> Image:
        """The same file with remarks added, an existing one of the same name replaced."""
        return replace(self, text={**self.text, **remarks})
