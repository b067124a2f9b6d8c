"""Limits checked on a header, before a decoder sees a byte or memory is taken."""

from __future__ import annotations

from dataclasses import replace

from rayscale.errors import InputError, TooLargeError, quantity
from rayscale.imaging.image import Header
from rayscale.resampling import enlarged
from rayscale.settings import get_settings

BYTES_PER_PIXEL = 8
"""Decoded bytes granted per allowed pixel: 16-bit RGBA. Files of many bands pass with fewer pixels."""

METADATA_BYTES = 4 << 20
"""Most bytes that compressed metadata of one file (profile, text) may inflate to."""


def check_size(header: Header, max_pixels: int, setting: str = "RAYSCALE_MAX_INPUT_PIXELS") -> None:
    """Raise when the picture of ``header`` is empty or over ``max_pixels``, the value of ``setting``.

    Raises:
        InputError: width or height is 0.
        TooLargeError: more pixels, or more bytes than that many 16-bit RGBA pixels.
    """
    kind = header.container.upper()
    if header.width < 1 or header.height < 1 or header.slices < 1:
        raise InputError(
            f"{kind} header claims {header.width} x {header.height} pixels: nothing to read"
        )
    if header.pixels > max_pixels:
        raise TooLargeError(
            f"{kind} of {header.width} x {header.height}{f' x {header.slices}' * (header.slices > 1)} = {header.pixels} pixels is over the limit of "
            f"{max_pixels}; raise {setting} or cut the image"
        )
    if header.decoded_bytes > max_pixels * BYTES_PER_PIXEL:
        raise TooLargeError(
            f"{kind} of {header.width} x {header.height} pixels with {quantity(header.channels, 'channel')} of "
            f"{header.bits} bits takes {header.decoded_bytes} bytes, over the limit of "
            f"{max_pixels * BYTES_PER_PIXEL}; raise {setting} or split the bands"
        )


def check_output(header: Header, scale: float) -> None:
    """Raise TooLargeError when the picture of ``header``, enlarged, is over ``max_output_pixels`` of the settings.

    Its bytes count as those of an input do: a file of hundreds of bands is small in pixels only.
    """
    limit = get_settings().max_output_pixels
    width, height = (enlarged(side, scale) for side in (header.width, header.height))
    larger = replace(header, width=width, height=height)
    slices = f" of {header.slices} slices" * (header.slices > 1)
    made = f"{header.width}x{header.height} pixels{slices} at x{scale:g} make {width}x{height}"
    advice = "raise RAYSCALE_MAX_OUTPUT_PIXELS or cut the image"
    if larger.pixels > limit:
        raise TooLargeError(f"{made}, over the limit of {limit} output pixels; {advice}")
    if larger.decoded_bytes > limit * BYTES_PER_PIXEL:
        raise TooLargeError(
            f"{made} with {quantity(header.channels, 'channel')} of {header.bits} bits, {larger.decoded_bytes} bytes: over the limit "
            f"of {limit * BYTES_PER_PIXEL}; {advice}, or split the bands"
        )
