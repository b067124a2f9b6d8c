"""PNG (third edition of the specification): 1 to 16 bit, grey, RGB, palette, alpha.

``png_chunks`` walks the chunks, of which only what makes the picture goes to libpng. Palettes become
RGB, grey of 1, 2 and 4 bit becomes 8 bit, animations are refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging import labels
from rayscale.imaging.containers import jpeg
from rayscale.imaging.containers.png_chunks import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    RAW_PROFILE,
    RAW_PROFILES,
    RGB,
    RGBA,
    SAMPLES,
    SIGNATURE,
    XMP,
    Chunks,
    inflate,
    make_chunk,
    make_text_chunk,
    walk,
)
from rayscale.imaging.description import Description
from rayscale.imaging.image import Header, Image
from rayscale.imaging.limits import check_size
from rayscale.imaging.orientation import upright, upright_dpi
from rayscale.options import DEFAULTS, Handling

INCH = 0.0254
"""Metres per inch; pHYs counts pixels per metre."""

MAX_SIDE = 1_000_000
"""libpng's own limit on width and height."""

_LEVEL = 2
"""Of libdeflate, after the filter Up in every row: a third of the time of libpng at level 4, for as many bytes within 5 %."""

_AT_ONCE = 64 << 20
"""Bytes of pixels that are filtered and deflated whole, as libdeflate has no streams; larger pictures take libpng, which needs
no second copy of them."""

_LEVEL_OF_LIBPNG = 4

_COLOUR_TYPES = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}

# Small chunks that say how the values are to be shown; kept byte for byte. The last two are the names of drafts.
_COLOUR = (b"cICP", b"cHRM", b"gAMA", b"sRGB", b"mDCV", b"cLLI", b"mDCv", b"cLLi")
# What else concerns the values; kept where its form fits the pixels as they are written.
_VALUES = (b"sBIT", b"bKGD")
# Properties that ImageMagick copies from EXIF; they would contradict the picture once it is upright.
_STALE = ("exif:Orientation", "tiff:Orientation")
# Passes of an interlaced picture: first column, first row, step across, step down.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
# No deflate stream shrinks further than this.
_MAX_DEFLATE_RATIO = 1100


def probe(data: bytes) -> Header:
    """Header of a PNG; chunks are walked up to the first pixel data."""
    return walk(data, header_only=True).header


def read(data: bytes, max_pixels: int, handling: Handling = DEFAULTS) -> Image:
    """Decode a PNG; 16-bit files stay uint16, everything else becomes uint8."""
    header = probe(data)
    check_size(header, max_pixels)
    if header.pages > 1:
        raise UnsupportedError(
            f"PNG is an animation of {header.pages} frames; only still pictures are handled: split it"
        )
    chunks = walk(data, header_only=False)
    pixels, alpha = _decode(chunks)
    orientation = chunks.orientation
    pixels = upright(pixels, orientation)
    description, notes = Description.read(
        (pixels.shape[1], pixels.shape[0]),
        orientation,
        exif_block=chunks.exif,
        packet=chunks.xmp,
        iptc=chunks.iptc,
    )
    found, doubts = _labels(chunks, pixels, handling)
    profiles = {XMP, *_STALE, *(RAW_PROFILE + kind for kind in RAW_PROFILES)}
    return Image(
        pixels=pixels,
        container="png",
        labels=found,
        alpha=None if alpha is None else upright(alpha, orientation),
        icc=_profile(chunks),
        dpi=upright_dpi(_dpi(chunks), orientation),
        text={name: value for name, value in chunks.text.items() if name not in profiles},
        description=description,
        encoding=_encoding(chunks),
        notes=(*doubts, *chunks.notes, *notes),
    )


def _labels(
    chunks: Chunks, pixels: NDArray[Any], handling: Handling
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Channels that may show classes, and notes: programs for segmentation write them as grey or as indices of a palette,
    but a drawing of few greys or colours looks the same."""
    has_palette = chunks.colour == PALETTE
    if pixels.shape[2] != 1 and not has_palette:
        return (), ()
    census = labels.Census(1)
    census.add(_indices(chunks) if has_palette else pixels)
    doubts = census.doubts() | census.reasons()
    if not (has_palette and doubts):
        return labels.settle({}, doubts, handling, lambda _: "PNG")
    found, notes = labels.settle({}, doubts, handling, lambda _: "the palette of the PNG")
    lost = "the palette of the PNG becomes RGB: the output holds colours, no class numbers"
    return (0, 1, 2) * bool(found), (*notes, lost)


def _indices(chunks: Chunks) -> np.ndarray:
    """(height, width, 1) of a palette: samples of grey, but that those of less than 8 bit are not to be stretched."""
    return _decode_samples(chunks, GREY) // (255 // ((1 << chunks.depth) - 1))


def write(image: Image) -> bytes:
    """Encode 1 or 3 channels of 8 or 16 bit, with alpha when the image has it."""
    if image.channels not in (1, 3):
        raise UnsupportedError(
            f"PNG holds 1 or 3 channels, the image has {image.channels}; write it as TIFF"
        )
    planes = image.pixels
    if image.alpha is not None:
        planes = np.concatenate([planes, image.alpha[:, :, None]], axis=2)
    if planes.nbytes > _AT_ONCE or max(planes.shape) > MAX_SIDE:
        return _write_by_libpng(planes, _metadata(image))
    height, width, samples = planes.shape
    depth, colour = 8 * planes.itemsize, _COLOUR_TYPES[samples]
    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = make_chunk(b"IHDR", ihdr), _metadata(image), make_chunk(b"IDAT", _deflate(planes))
    return b"".join((SIGNATURE, *parts, make_chunk(b"IEND", b"")))


def _deflate(planes: NDArray[Any]) -> bytes:
    """The pixel data, each row as its difference from the one above (filter type 2)."""
    import imagecodecs

    height = planes.shape[0]
    ordered = planes.astype(planes.dtype.newbyteorder(">"), order="C", copy=False)
    rows = ordered.reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return bytes(imagecodecs.deflate_encode(filtered, level=_LEVEL))  # type: ignore[arg-type]


def _write_by_libpng(planes: NDArray[Any], metadata: bytes) -> bytes:
    import imagecodecs

    if planes.shape[2] == 1:
        planes = planes[:, :, 0]
    encoded: bytes = bytes(
        imagecodecs.png_encode(np.ascontiguousarray(planes), level=_LEVEL_OF_LIBPNG)
    )
    after_ihdr = len(SIGNATURE) + 25
    return encoded[:after_ihdr] + metadata + encoded[after_ihdr:]


def _decode(chunks: Chunks) -> tuple[np.ndarray, np.ndarray | None]:
    parts = chunks.bodies.get(b"IDAT")
    if not parts:
        raise InputError("PNG holds no pixel data")
    if max(chunks.width, chunks.height) > MAX_SIDE:
        raise TooLargeError(
            f"PNG of {chunks.width} x {chunks.height} is over libpng's limit of {MAX_SIDE} a side"
        )
    needed = chunks.height * (chunks.width * chunks.depth * SAMPLES[chunks.colour] // 8)
    present = sum(map(len, parts))
    if needed > _MAX_DEFLATE_RATIO * (present + 64):
        raise InputError(
            f"PNG is cut short: {present} bytes of pixel data cannot hold {chunks.width} x {chunks.height} pixels"
        )
    palette = chunks.one(b"PLTE")
    if chunks.colour == PALETTE and (not palette or len(palette) % 3 or len(palette) > 768):
        raise InputError("PNG is damaged: its palette is missing or of a wrong length")
    array = _decode_samples(chunks, chunks.colour)
    if array.shape[2] in (2, 4):
        return array[:, :, :-1], array[:, :, -1]
    return array, None


def _decode_samples(chunks: Chunks, colour: int) -> np.ndarray:
    """(height, width, samples), taken for those of a colour type, which may be another than the file's."""
    parts = chunks.bodies[b"IDAT"]
    if chunks.interlaced:
        return _deinterlace(chunks, colour, b"".join(parts))
    return _decode_plain(chunks, colour, chunks.width, chunks.height, parts)


def _decode_plain(
    chunks: Chunks, colour: int, width: int, height: int, parts: Sequence[bytes]
) -> np.ndarray:
    """(height, width, samples) from the parts of a compressed stream that is not interlaced."""
    import imagecodecs

    ihdr = struct.pack(">IIBBBBB", width, height, chunks.depth, colour, 0, 0, 0)
    lean = [SIGNATURE, make_chunk(b"IHDR", ihdr)]
    palette, transparency = chunks.one(b"PLTE"), chunks.one(b"tRNS")
    if palette and colour == PALETTE:
        lean.append(make_chunk(b"PLTE", palette))
    if transparency and colour == chunks.colour and colour in (GREY, RGB, PALETTE):
        lean.append(make_chunk(b"tRNS", transparency))
    for part in parts:  # which may hold most of the memory: copied once, by the join
        lean += [struct.pack(">I4s", len(part), b"IDAT"), part]
        lean += [struct.pack(">I", zlib.crc32(part, zlib.crc32(b"IDAT")))]
    lean += [make_chunk(b"IEND", b"")]
    array: np.ndarray = imagecodecs.png_decode(b"".join(lean))
    return array[:, :, None] if array.ndim == 2 else array


def _deinterlace(chunks: Chunks, colour: int, stream: bytes) -> np.ndarray:
    """Decode Adam7: imagecodecs mixes the seven passes up, so each is decoded as a picture of its own."""
    passes = []
    for left, top, across, down in _ADAM7:
        width = -(-(chunks.width - left) // across)
        height = -(-(chunks.height - top) // down)
        if width > 0 and height > 0:
            row = 1 + (width * chunks.depth * SAMPLES[chunks.colour] + 7) // 8
            passes.append((left, top, across, down, width, height, row * height))
    plain = zlib.decompressobj().decompress(stream, sum(item[-1] for item in passes))
    array, at = None, 0
    for left, top, across, down, width, height, size in passes:
        if at + size > len(plain):
            raise InputError("PNG is cut short: its interlaced pixel data ends too early")
        part = _decode_plain(
            chunks, colour, width, height, [zlib.compress(plain[at : at + size], 1)]
        )
        if array is None:
            array = np.empty((chunks.height, chunks.width, part.shape[2]), part.dtype)
        array[top::down, left::across] = part
        at += size
    assert array is not None  # the first pass is never empty
    return array


def _profile(chunks: Chunks) -> bytes | None:
    body = chunks.one(b"iCCP")
    if body is None:
        return None
    _, _, rest = body.partition(b"\0")
    return inflate(rest[1:], "colour profile") or None


def _dpi(chunks: Chunks) -> tuple[float, float] | None:
    body = chunks.one(b"pHYs")
    if body is None or len(body) != 9 or body[8] != 1:
        return None
    x, y = struct.unpack(">II", body[:8])
    return (x * INCH, y * INCH) if x and y else None


def _encoding(chunks: Chunks) -> dict[str, dict[str, bytes]]:
    """Chunks about the values, in the form of the pixels as they are decoded."""
    colour = {kind.decode(): body for kind in _COLOUR if (body := chunks.one(kind))}
    samples = 1 if chunks.colour in (GREY, GREY_ALPHA) else 3
    bits = chunks.one(b"sBIT")
    if bits and len(bits) in (samples, samples + 1):
        if chunks.header.alpha and len(bits) == samples:
            bits += bytes([16 if chunks.depth == 16 else 8])  # what tRNS becomes
        colour["sBIT"] = bits
    if background := _background(chunks, samples):
        colour["bKGD"] = background
    return {"colour": colour} if colour else {}


def _background(chunks: Chunks, samples: int) -> bytes | None:
    """The colour of bKGD for grey or RGB of 8 or 16 bit."""
    body = chunks.one(b"bKGD")
    if not body:
        return None
    if chunks.colour == PALETTE:
        colour = (chunks.one(b"PLTE") or b"")[3 * body[0] : 3 * body[0] + 3]
        return struct.pack(">3H", *colour) if len(colour) == 3 else None
    if len(body) != 2 * samples:
        return None
    if chunks.depth < 8:
        peak = (1 << chunks.depth) - 1
        return struct.pack(">H", min(int.from_bytes(body, "big"), peak) * 255 // peak)
    return body


def _metadata(image: Image) -> bytes:
    """Chunks that belong between IHDR and IDAT."""
    samples = image.channels
    sizes = {"sBIT": samples + (image.alpha is not None), "bKGD": 2 * samples}
    parts = [
        make_chunk(name.encode(), body)
        for name, body in image.encoding.get("colour", {}).items()
        if name.encode() in (*_COLOUR, *_VALUES)
        and not (image.icc and name == "sRGB")
        and len(body) == sizes.get(name, len(body))
    ]
    if image.icc:
        parts.append(make_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(image.icc, 9)))
    if image.dpi:
        x, y = (min(0x7FFFFFFF, max(1, round(value / INCH))) for value in image.dpi)
        parts.append(make_chunk(b"pHYs", struct.pack(">IIB", x, y, 1)))
    description = image.fitted_description
    if description and description.exif:
        parts.append(make_chunk(b"eXIf", description.exif))
    if description and description.xmp:
        parts.append(make_text_chunk(XMP, description.xmp.decode("utf-8")))
    if description and description.iptc:
        iptc = jpeg.resources_of(description.iptc)
        parts.append(
            make_text_chunk(f"{RAW_PROFILE}iptc", f"\niptc\n{len(iptc):8}\n{iptc.hex()}\n")
        )
    parts += [make_text_chunk(name, value) for name, value in image.text.items()]
    return b"".join(parts)
