"""The same small window by every model, side by side, as papers show it: what figures cannot say."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import ConfigError, InputError
from rayscale.imaging.image import Pixels
from rayscale.imaging.metrics import Protocol, psnr, ssim

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw

SIDE = 64
"""Height and width in HR pixels of a window that is chosen automatically."""

_CELL = 264  # pixels on the sheet that the longer side of a window is magnified to, about
_GAP, _LINE, _FONT = 14, 22, 16
_INK, _PAPER, _FRAME = "#1a1a1a", "#ffffff", "#e02020"
_SMALLEST = 11  # the window of SSIM


@dataclass(frozen=True)
class Window:
    """A part of an HR image: left, top, width and height in HR pixels."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read ``x,y,w,h``; ConfigError for anything else, and for less than 11 pixels a side."""
        try:
            x, y, width, height = (int(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(
                f"{text!r} is not a window; give left, top, width and height in HR pixels, as 120,80,64,64"
            ) from None
        if min(x, y) < 0 or min(width, height) < _SMALLEST:
            raise ConfigError(
                f"window {text} must start at 0 or more and be {_SMALLEST} pixels or more wide and high"
            )
        return cls(x, y, width, height)

    def cut(self, pixels: Pixels) -> Pixels:
        """The window of ``(H, W, C)``; InputError where it leaves the image."""
        height, width = pixels.shape[:2]
        if self.x + self.width > width or self.y + self.height > height:
            raise InputError(
                f"the window {self.x},{self.y},{self.width},{self.height} leaves the image of {width}x{height}"
            )
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]


def most_different(pictures: Sequence[Pixels], side: int = SIDE) -> Window:
    """The window where two or more pictures ``(H, W, C)`` of one shape differ most from each other.

    The sum of the variances over the pictures is largest there; the first such window in reading order. ``side`` is
    lowered to what the pictures have.
    """
    variance = np.stack(pictures).astype(np.float64).var(axis=0).sum(axis=2)
    height, width = (min(side, size) for size in variance.shape)
    sums = np.pad(variance.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    total = (
        sums[height:, width:]
        - sums[:-height, width:]
        - sums[height:, :-width]
        + sums[:-height, :-width]
    )
    y, x = np.unravel_index(np.argmax(total), total.shape)
    return Window(int(x), int(y), width, height)


def sheet(
    title: str,
    hr: Pixels,
    results: Mapping[str, Pixels],
    protocol: Protocol,
    window: Window | None = None,
) -> bytes:
    """The picture as PNG: the whole image with the window marked, then the window by each model and in HR.

    Under each name stand PSNR and SSIM of the window alone, under ``protocol`` without its border.

    Args:
        title: what stands under the whole image.
        hr: ``(H, W, C)`` uint8 or uint16; of another number of channels than 1 and 3 the first three are shown.
        results: label to pixels, of the shape and type of ``hr``.
        window: None takes :func:`most_different` of the results (and HR, for a single one).

    Raises InputError when the window leaves the image, or the image is smaller than 11 pixels.
    """
    if window is None:
        pictures = list(results.values())
        window = most_different(pictures if len(pictures) > 1 else [*pictures, hr])
    show = _tone(hr)
    truth = window.cut(hr)
    cells = []
    inside = replace(protocol, margin=0)
    for label, pixels in results.items():
        part = window.cut(pixels)
        quality = f"{psnr(part, truth, inside, 0):.2f} dB / {ssim(part, truth, inside, 0):.4f}"
        cells.append((label, quality, show(part)))
    cells.append(("HR", "PSNR / SSIM", show(truth)))
    return _compose(title, show(hr), cells, window)


def _tone(hr: Pixels) -> Any:
    """A function that makes 8-bit grey or RGB of pixels, the same for every picture.

    8-bit pixels are shown as they are. The full range of 16 bits is rarely used: 1 % to 99 % of the reference
    become black to white.
    """
    shown = slice(0, 3 if hr.shape[2] >= 3 else 1)
    if hr.dtype == np.uint8:
        return lambda pixels: pixels[..., shown]
    low, high = np.percentile(hr[..., shown], (1, 99))

    def stretch(pixels: Pixels) -> NDArray[np.uint8]:
        scaled = (pixels[..., shown].astype(np.float64) - low) * (255 / max(high - low, 1.0))
        return np.asarray(np.rint(scaled.clip(0, 255)), np.uint8)

    return stretch


def _compose(
    title: str, whole: NDArray[np.uint8], cells: list[tuple[str, str, NDArray[np.uint8]]], window: Window
) -> bytes:  # fmt: skip
    """The whole image at the left, as high as the two rows of magnified windows beside it."""
    from PIL import Image, ImageDraw, ImageFont

    magnify = max(1, round(_CELL / max(window.width, window.height)))
    width, height = window.width * magnify, window.height * magnify
    font = ImageFont.load_default(_FONT)
    # A narrow window still needs room for its two lines of text.
    room = max(font.getlength(text) for label, quality, _ in cells for text in (label, quality))
    pitch = max(width, math.ceil(room)) + _GAP
    down = height + 2 * _LINE + _GAP
    columns = math.ceil(len(cells) / 2)
    rows = math.ceil(len(cells) / columns)

    overview_height = rows * down - _GAP - 2 * _LINE
    zoom = overview_height / whole.shape[0]
    overview_width = round(whole.shape[1] * zoom)
    left = _GAP + overview_width + _GAP
    size = (left + columns * pitch, _GAP + rows * down)
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)

    overview = _picture(whole).resize((overview_width, overview_height), Image.Resampling.LANCZOS)
    page.paste(overview, (_GAP, _GAP))
    corners = (window.x, window.y, window.x + window.width, window.y + window.height)
    draw.rectangle([_GAP + round(corner * zoom) for corner in corners], outline=_FRAME, width=3)
    _write(draw, font, (_GAP + overview_width / 2, _GAP + overview_height), [title])
    for index, (label, quality, pixels) in enumerate(cells):
        x = left + index % columns * pitch + (pitch - _GAP - width) // 2
        y = _GAP + index // columns * down
        part = _picture(pixels).resize((width, height), Image.Resampling.NEAREST)
        page.paste(part, (x, y))
        _write(draw, font, (x + width / 2, y + height), [label, quality])
    file = io.BytesIO()
    page.save(file, "png", optimize=True)
    return file.getvalue()


def _picture(pixels: NDArray[np.uint8]) -> Picture:
    from PIL import Image

    return Image.fromarray(np.squeeze(pixels, 2) if pixels.shape[2] == 1 else pixels).convert("RGB")


def _write(draw: ImageDraw, font: Any, top: tuple[float, float], lines: list[str]) -> None:
    """Lines of text centred below a point."""
    for number, text in enumerate(lines):
        place = (top[0], top[1] + _LINE * (number + 0.6))
        draw.text(place, text, fill=_INK, font=font, anchor="mm")
