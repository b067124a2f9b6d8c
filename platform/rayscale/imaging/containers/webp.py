"""WebP (RFC 9649): 8-bit RGB with or without alpha, lossy (VP8) and lossless (VP8L); animations are refused.

Chunks are walked here; only what makes the picture goes to libwebp. The orientation of EXIF is applied; EXIF and XMP
are kept. Resolution and remarks have no other place than EXIF.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rayscale.errors import InputError, UnsupportedError, quantity
from rayscale.imaging.containers import exif, remarks
from rayscale.imaging.description import Description
from rayscale.imaging.image import Header, Image
from rayscale.imaging.limits import check_size
from rayscale.imaging.orientation import exif_orientation, upright, upright_dpi, upright_size
from rayscale.options import DEFAULTS, Handling

QUALITY = 95
"""Written when the source was lossy; a VP8 stream does not tell its own."""

MAX_SIDE = 16_383
"""Width and height have 14 bits."""

MAX_CHUNKS = 100_000
"""A still picture has about six; every frame of an animation is one."""

_ALPHA, _ANIMATION = 0x10, 0x02  # flags of VP8X
_FRAME_BYTES = {b"VP8 ": 10, b"VP8L": 5}


@dataclass
class _Chunks:
    """What the chunks of one file say; ``bodies`` holds the first of each kind."""

    canvas: tuple[int, int] | None = None
    flags: int = 0
    frames: int = 0
    bodies: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def picture(self) -> bytes:
        """The kind of the chunk that holds the pixels."""
        found = [kind for kind in _FRAME_BYTES if kind in self.bodies]
        if not found:
            raise InputError("WEBP holds no pixel data")
        return found[0]

    @property
    def animated(self) -> bool:
        return bool(self.flags & _ANIMATION) or self.frames > 0

    @property
    def alpha(self) -> bool:
        if self.animated:
            return bool(self.flags & _ALPHA)
        if self.picture == b"VP8L":
            return bool(self.bodies[b"VP8L"][4] >> 4 & 1)
        return self.canvas is not None and b"ALPH" in self.bodies

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as stored; those of the pixels must be those of the canvas."""
        if self.animated:
            if self.canvas is None:
                raise InputError("WEBP is damaged: it is an animation without a canvas")
            return self.canvas
        kind = self.picture
        size = (_size_lossless if kind == b"VP8L" else _size_lossy)(self.bodies[kind])
        if self.canvas is not None and self.canvas != size:
            raise InputError(
                f"WEBP claims a canvas of {self.canvas[0]} x {self.canvas[1]}, but its picture has "
                f"{size[0]} x {size[1]} pixels: damaged"
            )
        return size

    @property
    def exif(self) -> bytes:
        return self.bodies.get(b"EXIF", b"").removeprefix(b"Exif\0\0")

    @property
    def header(self) -> Header:
        width, height = upright_size(*self.size, exif_orientation(self.exif))
        pages = max(1, self.frames)
        return Header("webp", width, height, channels=3, bits=8, pages=pages, alpha=self.alpha)


def claims(data: bytes) -> bool:
    """Whether ``data`` begins like a WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def probe(data: bytes) -> Header:
    """Header of a WebP, from the heads of its chunks; the frames of an animation are counted as pages."""
    return _walk(data).header


def read(data: bytes, max_pixels: int, handling: Handling = DEFAULTS) -> Image:
    """Decode a still WebP to uint8 RGB, upright, with alpha where it has any."""
    import imagecodecs

    chunks = _walk(data)
    check_size(chunks.header, max_pixels)
    if chunks.animated:
        raise UnsupportedError(
            f"WEBP is an animation of {chunks.frames} frames; only still pictures are handled: split it"
        )
    pixels: np.ndarray = imagecodecs.webp_decode(_lean(chunks), hasalpha=chunks.alpha)
    width, height = chunks.size
    expected = (height, width, 3 + chunks.alpha)
    if pixels.shape != expected:
        raise InputError(f"WEBP decodes to {pixels.shape}, but its header says {expected}: damaged")
    orientation = exif_orientation(chunks.exif)
    dpi, text = remarks.read_exif(chunks.exif)
    size = upright_size(width, height, orientation)
    description, notes = Description.read(
        size, orientation, exif_block=chunks.exif, packet=chunks.bodies.get(b"XMP ")
    )
    return Image(
        pixels=upright(pixels[:, :, :3], orientation),
        container="webp",
        alpha=upright(pixels[:, :, 3], orientation) if chunks.alpha else None,
        icc=chunks.bodies.get(b"ICCP") or None,
        dpi=upright_dpi(dpi, orientation),
        text=text,
        description=description,
        notes=notes,
        encoding={"lossless": chunks.picture == b"VP8L"},
    )


def write(image: Image) -> bytes:
    """Encode 8-bit RGB, lossless unless the source was lossy; an alpha that is opaque everywhere is left out.

    Lossless keeps the colours under transparent pixels. The limit of ``MAX_SIDE`` is checked by ``files``.
    """
    from PIL import Image as PillowImage

    if image.bits != 8 or image.channels != 3:
        raise UnsupportedError(
            f"WEBP holds 8-bit RGB; the image has {quantity(image.channels, 'channel')} of {image.bits} bits: write it as PNG "
            "or TIFF"
        )
    planes = image.pixels
    if image.alpha is not None:
        planes = np.concatenate([planes, image.alpha[:, :, None]], axis=2)
    lossless = bool(image.encoding.get("lossless", True))
    options: dict[str, Any] = {"icc_profile": image.icc} if image.icc else {}
    description = image.fitted_description
    if block := _exif(image, description.exif if description else None):
        options["exif"] = block
    if description and description.xmp:
        options["xmp"] = description.xmp
    out = io.BytesIO()
    # For lossless, quality is how long the encoder tries.
    PillowImage.fromarray(np.ascontiguousarray(planes)).save(
        out, "WEBP", lossless=lossless, quality=75 if lossless else QUALITY, exact=True, **options
    )
    return out.getvalue()


def _walk(data: bytes) -> _Chunks:
    if len(data) < 20 or not claims(data):
        raise InputError(f"WEBP is cut short after {len(data)} bytes")
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise InputError(f"WEBP is cut short: {end} bytes are promised, {len(data)} are there")
    chunks = _Chunks()
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > end:
            return chunks
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > end:
            raise InputError(
                f"WEBP is cut short or damaged: chunk {kind.decode('ascii', 'replace')} at byte {at} needs {length} "
                f"bytes, {end - at - 8} are there"
            )
        if kind == b"ANMF":
            chunks.frames += 1
        elif kind not in chunks.bodies:
            chunks.bodies[kind] = body = data[at + 8 : at + 8 + length]
            if kind == b"VP8X" and at == 12:
                chunks.flags, chunks.canvas = _canvas(body)
            elif at == 12 and kind not in _FRAME_BYTES:
                break
        at += 8 + length + length % 2
    else:
        raise InputError(f"WEBP has more than {MAX_CHUNKS} chunks; re-save it")
    raise InputError(f"WEBP is damaged: it begins with the chunk {data[12:16]!r}")


def _canvas(body: bytes) -> tuple[int, tuple[int, int]]:
    if len(body) < 10:
        raise InputError(f"WEBP header of {len(body)} bytes is damaged")
    width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
    return body[0], (width, height)


def _size_lossy(body: bytes) -> tuple[int, int]:
    if len(body) < _FRAME_BYTES[b"VP8 "] or body[0] & 1 or body[3:6] != b"\x9d\x01\x2a":
        raise InputError("WEBP is damaged: its lossy stream does not begin with a key frame")
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF


def _size_lossless(body: bytes) -> tuple[int, int]:
    if len(body) < _FRAME_BYTES[b"VP8L"] or body[0] != 0x2F:
        raise InputError("WEBP is damaged: its lossless stream does not begin with its signature")
    (bits,) = struct.unpack_from("<I", body, 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _lean(chunks: _Chunks) -> bytes:
    """The file with the pixels alone."""
    kind = chunks.picture
    parts = [_chunk(kind, chunks.bodies[kind])]
    if kind == b"VP8 " and chunks.alpha:
        width, height = chunks.size
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        extended = _chunk(b"VP8X", bytes([_ALPHA, 0, 0, 0]) + canvas)
        parts = [extended, _chunk(b"ALPH", chunks.bodies[b"ALPH"]), *parts]
    return _chunk(b"RIFF", b"WEBP" + b"".join(parts))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _exif(image: Image, block: bytes | None) -> bytes | None:
    """The block of the source with resolution and remarks of the image."""
    tags: exif.Tree = {
        tag: exif.text_value(value) for tag, value in remarks.text_tags(image.text).items()
    }
    if image.dpi:
        tags[remarks.X_RESOLUTION], tags[remarks.Y_RESOLUTION] = map(exif.rational_value, image.dpi)
        tags[remarks.RESOLUTION_UNIT] = exif.short_value(remarks.INCH)
    if not tags:
        return block
    return exif.with_tags(block, tags) if block else exif.new_block(tags)
