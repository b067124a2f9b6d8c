"""PNG (third edition of the specification): 1 to 16 bit, grey, RGB, palette, alpha.

Chunks are walked here with every length and checksum checked, metadata is inflated under a limit, and
only what makes the picture goes to libpng. Palettes become RGB, grey of 1, 2 and 4 bit becomes 8 bit,
animations are refused.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging import labels
from rayscale.imaging.containers import jpeg
from rayscale.imaging.description import Description
from rayscale.imaging.image import Header, Image
from rayscale.imaging.limits import METADATA_BYTES, check_size
from rayscale.imaging.orientation import exif_orientation, upright, upright_dpi, upright_size
from rayscale.options import DEFAULTS, Handling

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EXIF = b"Exif\0\0"
INCH = 0.0254
"""Metres per inch; pHYs counts pixels per metre."""

MAX_SIDE = 1_000_000
"""libpng's own limit on width and height."""

MAX_CHUNKS = 500_000
"""A 64-megapixel 16-bit file in pieces of 8 KiB has 65 000."""

_LEVEL = 4
"""Of deflate: for 4 % more bytes than the usual 6 two and a half times as fast, which a batch feels."""

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_DEPTHS = {
    _GREY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _GREY_ALPHA: (8, 16),
    _RGBA: (8, 16),
}
# Small chunks that say how the values are to be shown; kept byte for byte. The last two are the names of drafts.
_COLOUR = (b"cICP", b"cHRM", b"gAMA", b"sRGB", b"mDCV", b"cLLI", b"mDCv", b"cLLi")
# What else concerns the values; kept where its form fits the pixels as they are written.
_VALUES = (b"sBIT", b"bKGD")
# Bytes that a text chunk counts for beyond its text, so that empty ones are limited too.
_REMARK_COST = 64
_REMARKS = (b"tEXt", b"zTXt", b"iTXt")
_KEYWORD_BYTES = 79
_XMP = "XML:com.adobe.xmp"
# Where EXIF, XMP and IPTC lay before they had chunks: hexadecimal text of ImageMagick and ExifTool.
_RAW_PROFILES = ("exif", "APP1", "xmp", "iptc", "8bim")
_RAW = "Raw profile type "
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


@dataclass
class _Chunks:
    """The parts of one PNG: fields of IHDR, then chunk bodies by kind as far as they were walked."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    bodies: dict[bytes, list[bytes]] = field(default_factory=dict)
    remarks: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Kind and body of the text chunks, in the order of the file."""
    notes: list[str] = field(default_factory=list)

    def one(self, kind: bytes) -> bytes | None:
        found = self.bodies.get(kind)
        return found[0] if found else None

    @cached_property
    def text(self) -> dict[str, str]:
        """All text chunks, raw profiles among them."""
        return _read_text(self)

    @cached_property
    def exif(self) -> bytes:
        """The chunk of its own, or else the raw profile."""
        if (block := self.one(b"eXIf")) is not None:
            return block.removeprefix(_EXIF)
        profiles = [_raw_profile(self.text, kind) for kind in ("exif", "APP1")]
        return next((p.removeprefix(_EXIF) for p in profiles if p.startswith(_EXIF)), b"")

    @property
    def xmp(self) -> bytes:
        if _XMP in self.text:
            return self.text[_XMP].encode("utf-8")
        profiles = [_raw_profile(self.text, kind) for kind in ("xmp", "APP1")]
        return next((p.removeprefix(jpeg.XMP) for p in profiles if b"<x:xmpmeta" in p), b"")

    @property
    def iptc(self) -> bytes | None:
        profile = _raw_profile(self.text, "iptc") or _raw_profile(self.text, "8bim")
        return jpeg.iptc_of(profile.removeprefix(jpeg.PHOTOSHOP)) or (
            profile if profile.startswith(b"\x1c") else None
        )

    @property
    def orientation(self) -> int:
        return exif_orientation(self.exif)

    @property
    def header(self) -> Header:
        width, height = upright_size(self.width, self.height, self.orientation)
        frames = self.one(b"acTL")
        return Header(
            container="png",
            width=width,
            height=height,
            channels=1 if self.colour in (_GREY, _GREY_ALPHA) else 3,
            bits=16 if self.depth == 16 else 8,
            pages=max(1, int.from_bytes(frames[:4], "big")) if frames else 1,
            alpha=self.colour in (_GREY_ALPHA, _RGBA) or b"tRNS" in self.bodies,
        )


def probe(data: bytes) -> Header:
    """Header of a PNG; chunks are walked up to the first pixel data."""
    return _walk(data, header_only=True).header


def read(data: bytes, max_pixels: int, handling: Handling = DEFAULTS) -> Image:
    """Decode a PNG; 16-bit files stay uint16, everything else becomes uint8."""
    header = probe(data)
    check_size(header, max_pixels)
    if header.pages > 1:
        raise UnsupportedError(
            f"PNG is an animation of {header.pages} frames; only still pictures are handled: split it"
        )
    chunks = _walk(data, header_only=False)
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
    found, doubts = _labels(pixels, handling)
    profiles = {_XMP, *_STALE, *(_RAW + kind for kind in _RAW_PROFILES)}
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


def _labels(pixels: NDArray[Any], handling: Handling) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Grey that may be classes, as programs for segmentation write them, and notes: a drawing of few greys looks the same."""
    if pixels.shape[2] != 1:
        return (), ()
    census = labels.Census(1)
    census.add(pixels)
    return labels.settle({}, census.doubts() | census.reasons(), handling, lambda _: "PNG")


def write(image: Image) -> bytes:
    """Encode 1 or 3 channels of 8 or 16 bit, with alpha when the image has it."""
    import imagecodecs

    if image.channels not in (1, 3):
        raise UnsupportedError(
            f"PNG holds 1 or 3 channels, the image has {image.channels}; write it as TIFF"
        )
    planes = image.pixels
    if image.alpha is not None:
        planes = np.concatenate([planes, image.alpha[:, :, None]], axis=2)
    if planes.shape[2] == 1:
        planes = planes[:, :, 0]
    encoded: bytes = bytes(imagecodecs.png_encode(np.ascontiguousarray(planes), level=_LEVEL))
    after_ihdr = len(SIGNATURE) + 25
    return encoded[:after_ihdr] + _metadata(image) + encoded[after_ihdr:]


def _walk(data: bytes, *, header_only: bool) -> _Chunks:
    if not data.startswith(SIGNATURE):
        raise InputError(
            "PNG signature is damaged; was the file transferred in text mode?"
            if len(data) >= len(SIGNATURE)
            else f"PNG is cut short after {len(data)} bytes"
        )
    chunks: _Chunks | None = None
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(data):
            raise InputError(f"PNG is cut short: {len(data)} bytes without an end chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalpha() or length > 0x7FFFFFFF:
            raise InputError(f"PNG is damaged: no chunk begins at byte {at}")
        if chunks is not None and header_only and kind == b"IDAT":
            return chunks
        end = at + 8 + length
        if end + 4 > len(data):
            raise InputError(
                f"PNG is cut short: chunk {kind.decode()} at byte {at} needs {length} bytes, "
                f"{max(0, len(data) - at - 12)} are there"
            )
        body = data[at + 8 : end]
        if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end : end + 4], "big"):
            _leave_out(chunks, kind, at)
        elif chunks is None:
            chunks = _ihdr(kind, body)
        elif kind == b"IEND":
            return chunks
        elif kind[:1].isupper() and kind not in (b"PLTE", b"IDAT"):
            raise UnsupportedError(
                f"PNG holds the non-standard chunk {kind.decode()} it cannot be read without"
            )
        elif kind in _REMARKS:
            chunks.remarks.append((kind, body))
        else:
            chunks.bodies.setdefault(kind, []).append(body)
        at = end + 4
    raise InputError(f"PNG has more than {MAX_CHUNKS} chunks; re-save it")


def _leave_out(chunks: _Chunks | None, kind: bytes, at: int) -> None:
    """Note a chunk of a wrong checksum; InputError for one that makes the picture."""
    wrong = f"checksum of chunk {kind.decode()} at byte {at} is wrong"
    if chunks is None or kind[:1].isupper() or kind == b"tRNS":
        raise InputError(f"PNG is damaged: {wrong}")
    chunks.notes.append(f"the {wrong}; the chunk was left out")


def _ihdr(kind: bytes, body: bytes) -> _Chunks:
    if kind != b"IHDR" or len(body) != 13:
        raise InputError("PNG is damaged: it does not begin with its header chunk")
    width, height, depth, colour, method, filtering, interlace = struct.unpack(">IIBBBBB", body)
    if depth not in _DEPTHS.get(colour, ()) or method or filtering or interlace > 1:
        raise InputError(
            f"PNG header is damaged: colour type {colour} with {depth} bit, compression {method}, "
            f"filter {filtering}, interlace {interlace} do not exist"
        )
    if max(width, height) > 0x7FFFFFFF or 0 in (width, height):
        raise InputError(f"PNG header claims {width} x {height} pixels: nothing to read")
    return _Chunks(width, height, depth, colour, bool(interlace))


def _decode(chunks: _Chunks) -> tuple[np.ndarray, np.ndarray | None]:
    parts = chunks.bodies.get(b"IDAT")
    if not parts:
        raise InputError("PNG holds no pixel data")
    if max(chunks.width, chunks.height) > MAX_SIDE:
        raise TooLargeError(
            f"PNG of {chunks.width} x {chunks.height} is over libpng's limit of {MAX_SIDE} a side"
        )
    needed = chunks.height * (chunks.width * chunks.depth * _SAMPLES[chunks.colour] // 8)
    present = sum(map(len, parts))
    if needed > _MAX_DEFLATE_RATIO * (present + 64):
        raise InputError(
            f"PNG is cut short: {present} bytes of pixel data cannot hold {chunks.width} x {chunks.height} pixels"
        )
    palette = chunks.one(b"PLTE")
    if chunks.colour == _PALETTE and (not palette or len(palette) % 3 or len(palette) > 768):
        raise InputError("PNG is damaged: its palette is missing or of a wrong length")
    stream = b"".join(parts)
    array = (
        _deinterlace(chunks, stream)
        if chunks.interlaced
        else _decode_plain(chunks, chunks.width, chunks.height, stream)
    )
    if array.shape[2] in (2, 4):
        return array[:, :, :-1], array[:, :, -1]
    return array, None


def _decode_plain(chunks: _Chunks, width: int, height: int, stream: bytes) -> np.ndarray:
    """(height, width, samples) from a compressed stream that is not interlaced."""
    import imagecodecs

    ihdr = struct.pack(">IIBBBBB", width, height, chunks.depth, chunks.colour, 0, 0, 0)
    lean = [SIGNATURE, _chunk(b"IHDR", ihdr)]
    palette, transparency = chunks.one(b"PLTE"), chunks.one(b"tRNS")
    if palette and chunks.colour == _PALETTE:
        lean.append(_chunk(b"PLTE", palette))
    if transparency and chunks.colour in (_GREY, _RGB, _PALETTE):
        lean.append(_chunk(b"tRNS", transparency))
    lean += [_chunk(b"IDAT", stream), _chunk(b"IEND", b"")]
    array: np.ndarray = imagecodecs.png_decode(b"".join(lean))
    return array[:, :, None] if array.ndim == 2 else array


def _deinterlace(chunks: _Chunks, stream: bytes) -> np.ndarray:
    """Decode Adam7: imagecodecs mixes the seven passes up, so each is decoded as a picture of its own."""
    passes = []
    for left, top, across, down in _ADAM7:
        width = -(-(chunks.width - left) // across)
        height = -(-(chunks.height - top) // down)
        if width > 0 and height > 0:
            row = 1 + (width * chunks.depth * _SAMPLES[chunks.colour] + 7) // 8
            passes.append((left, top, across, down, width, height, row * height))
    plain = zlib.decompressobj().decompress(stream, sum(item[-1] for item in passes))
    array, at = None, 0
    for left, top, across, down, width, height, size in passes:
        if at + size > len(plain):
            raise InputError("PNG is cut short: its interlaced pixel data ends too early")
        part = _decode_plain(chunks, width, height, zlib.compress(plain[at : at + size], 1))
        if array is None:
            array = np.empty((chunks.height, chunks.width, part.shape[2]), part.dtype)
        array[top::down, left::across] = part
        at += size
    assert array is not None  # the first pass is never empty
    return array


def _chunk(kind: bytes, body: bytes) -> bytes:
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
    )


def _inflate(compressed: bytes, what: str, room: int = METADATA_BYTES) -> bytes:
    """Inflate at most ``room`` bytes."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(compressed, room + 1)
    except zlib.error as error:
        raise InputError(f"PNG is damaged: {what} does not inflate ({error})") from error
    if len(plain) > room:
        raise TooLargeError(
            f"PNG {what} inflates past the limit of {METADATA_BYTES} bytes for metadata"
        )
    if not stream.eof:
        raise InputError(f"PNG is damaged: {what} is cut short")
    return plain


def _profile(chunks: _Chunks) -> bytes | None:
    body = chunks.one(b"iCCP")
    if body is None:
        return None
    _, _, rest = body.partition(b"\0")
    return _inflate(rest[1:], "colour profile") or None


def _dpi(chunks: _Chunks) -> tuple[float, float] | None:
    body = chunks.one(b"pHYs")
    if body is None or len(body) != 9 or body[8] != 1:
        return None
    x, y = struct.unpack(">II", body[:8])
    return (x * INCH, y * INCH) if x and y else None


def _read_text(chunks: _Chunks) -> dict[str, str]:
    """Text chunks, keyword to text; remarks of one keyword are joined by a newline.

    What the standard does not allow, and a writer could not give back, is left out: other keywords, NULs.
    """
    text: dict[str, list[str]] = {}
    room = METADATA_BYTES
    for kind, body in chunks.remarks:
        keyword, _, rest = body.partition(b"\0")
        if not 1 <= len(keyword) <= _KEYWORD_BYTES:
            continue
        name = keyword.decode("latin-1")
        if kind == b"zTXt":
            rest = _inflate(rest[1:], f"text {name!r}", room)
        elif kind == b"iTXt":
            compressed = rest[:1] == b"\1"
            rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
            rest = _inflate(rest, f"text {name!r}", room) if compressed else rest
        room -= len(rest) + _REMARK_COST
        if room < 0:
            raise TooLargeError(
                f"PNG text is over the limit of {METADATA_BYTES} bytes for metadata"
            )
        value = rest.decode("utf-8", "replace") if kind == b"iTXt" else rest.decode("latin-1")
        text.setdefault(name, []).append(value.replace("\0", ""))
    return {name: "\n".join(values) for name, values in text.items()}


def _encoding(chunks: _Chunks) -> dict[str, dict[str, bytes]]:
    """Chunks about the values, in the form of the pixels as they are decoded."""
    colour = {kind.decode(): body for kind in _COLOUR if (body := chunks.one(kind))}
    samples = 1 if chunks.colour in (_GREY, _GREY_ALPHA) else 3
    bits = chunks.one(b"sBIT")
    if bits and len(bits) in (samples, samples + 1):
        if chunks.header.alpha and len(bits) == samples:
            bits += bytes([16 if chunks.depth == 16 else 8])  # what tRNS becomes
        colour["sBIT"] = bits
    if background := _background(chunks, samples):
        colour["bKGD"] = background
    return {"colour": colour} if colour else {}


def _background(chunks: _Chunks, samples: int) -> bytes | None:
    """The colour of bKGD for grey or RGB of 8 or 16 bit."""
    body = chunks.one(b"bKGD")
    if not body:
        return None
    if chunks.colour == _PALETTE:
        colour = (chunks.one(b"PLTE") or b"")[3 * body[0] : 3 * body[0] + 3]
        return struct.pack(">3H", *colour) if len(colour) == 3 else None
    if len(body) != 2 * samples:
        return None
    if chunks.depth < 8:
        peak = (1 << chunks.depth) - 1
        return struct.pack(">H", min(int.from_bytes(body, "big"), peak) * 255 // peak)
    return body


def _raw_profile(text: dict[str, str], kind: str) -> bytes:
    """A profile of ImageMagick: its name, its length, and its bytes as hexadecimal digits; b"" when absent or damaged."""
    parts = text.get(_RAW + kind, "").strip().split(None, 2)
    try:
        data = bytes.fromhex(parts[2])
        return data if len(data) == int(parts[1]) else b""
    except (IndexError, ValueError):
        return b""


def _metadata(image: Image) -> bytes:
    """Chunks that belong between IHDR and IDAT."""
    samples = image.channels
    sizes = {"sBIT": samples + (image.alpha is not None), "bKGD": 2 * samples}
    parts = [
        _chunk(name.encode(), body)
        for name, body in image.encoding.get("colour", {}).items()
        if name.encode() in (*_COLOUR, *_VALUES)
        and not (image.icc and name == "sRGB")
        and len(body) == sizes.get(name, len(body))
    ]
    if image.icc:
        parts.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(image.icc, 9)))
    if image.dpi:
        x, y = (min(0x7FFFFFFF, max(1, round(value / INCH))) for value in image.dpi)
        parts.append(_chunk(b"pHYs", struct.pack(">IIB", x, y, 1)))
    description = image.fitted_description
    if description and description.exif:
        parts.append(_chunk(b"eXIf", description.exif))
    if description and description.xmp:
        parts.append(_text_chunk(_XMP, description.xmp.decode("utf-8")))
    if description and description.iptc:
        iptc = jpeg.resources_of(description.iptc)
        parts.append(_text_chunk(f"{_RAW}iptc", f"\niptc\n{len(iptc):8}\n{iptc.hex()}\n"))
    parts += [_text_chunk(name, value) for name, value in image.text.items()]
    return b"".join(parts)


def _text_chunk(name: str, value: str) -> bytes:
    try:
        keyword = name.encode("latin-1")
    except UnicodeEncodeError:
        keyword = b""
    if not 1 <= len(keyword) <= _KEYWORD_BYTES or "\0" in name or "\0" in value:
        raise InputError(
            f"PNG cannot hold the remark {name[:99]!r}: a name has 1 to {_KEYWORD_BYTES} Latin-1 characters, and neither "
            "name nor text a NUL"
        )
    if name != _XMP:  # which readers look for in iTXt only
        with suppress(UnicodeEncodeError):
            return _chunk(b"tEXt", keyword + b"\0" + value.encode("latin-1"))
    return _chunk(b"iTXt", keyword + b"\0\0\0\0\0" + value.encode("utf-8"))
