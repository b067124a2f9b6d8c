"""The chunks of a PNG: walked with every length and checksum checked, their text and profiles inflated under a limit."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging.containers import jpeg
from rayscale.imaging.image import Header
from rayscale.imaging.limits import METADATA_BYTES
from rayscale.imaging.orientation import exif_orientation, upright_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EXIF = b"Exif\0\0"

MAX_CHUNKS = 500_000
"""A 64-megapixel 16-bit file in pieces of 8 KiB has 65 000."""

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_DEPTHS = {
    GREY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    RGBA: (8, 16),
}
# Bytes that a text chunk counts for beyond its text, so that empty ones are limited too.
_REMARK_COST = 64
_REMARKS = (b"tEXt", b"zTXt", b"iTXt")
_KEYWORD_BYTES = 79
XMP = "XML:com.adobe.xmp"
# Where EXIF, XMP and IPTC lay before they had chunks: hexadecimal text of ImageMagick and ExifTool.
RAW_PROFILES = ("exif", "APP1", "xmp", "iptc", "8bim")
RAW_PROFILE = "Raw profile type "


@dataclass
class Chunks:
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
        if XMP in self.text:
            return self.text[XMP].encode("utf-8")
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
            channels=1 if self.colour in (GREY, GREY_ALPHA) else 3,
            bits=16 if self.depth == 16 else 8,
            pages=max(1, int.from_bytes(frames[:4], "big")) if frames else 1,
            alpha=self.colour in (GREY_ALPHA, RGBA) or b"tRNS" in self.bodies,
        )


def walk(data: bytes, *, header_only: bool) -> Chunks:
    if not data.startswith(SIGNATURE):
        raise InputError(
            "PNG signature is damaged; was the file transferred in text mode?"
            if len(data) >= len(SIGNATURE)
            else f"PNG is cut short after {len(data)} bytes"
        )
    chunks: Chunks | None = None
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
                f"PNG holds the non-standard chunk {kind.decode()} that it cannot be read without"
            )
        elif kind in _REMARKS:
            chunks.remarks.append((kind, body))
        else:
            chunks.bodies.setdefault(kind, []).append(body)
        at = end + 4
    raise InputError(f"PNG has more than {MAX_CHUNKS} chunks; re-save it")


def _leave_out(chunks: Chunks | None, kind: bytes, at: int) -> None:
    """Note a chunk of a wrong checksum; InputError for one that makes the picture."""
    wrong = f"checksum of chunk {kind.decode()} at byte {at} is wrong"
    if chunks is None or kind[:1].isupper() or kind == b"tRNS":
        raise InputError(f"PNG is damaged: {wrong}")
    chunks.notes.append(f"the {wrong}; the chunk was left out")


def _ihdr(kind: bytes, body: bytes) -> Chunks:
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
    return Chunks(width, height, depth, colour, bool(interlace))


def make_chunk(kind: bytes, body: bytes) -> bytes:
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
    )


def inflate(compressed: bytes, what: str, room: int = METADATA_BYTES) -> bytes:
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


def _read_text(chunks: Chunks) -> dict[str, str]:
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
            rest = inflate(rest[1:], f"text {name!r}", room)
        elif kind == b"iTXt":
            compressed = rest[:1] == b"\1"
            rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
            rest = inflate(rest, f"text {name!r}", room) if compressed else rest
        room -= len(rest) + _REMARK_COST
        if room < 0:
            raise TooLargeError(
                f"PNG text is over the limit of {METADATA_BYTES} bytes for metadata"
            )
        value = rest.decode("utf-8", "replace") if kind == b"iTXt" else rest.decode("latin-1")
        text.setdefault(name, []).append(value.replace("\0", ""))
    return {name: "\n".join(values) for name, values in text.items()}


def _raw_profile(text: dict[str, str], kind: str) -> bytes:
    """A profile of ImageMagick: its name, its length, and its bytes as hexadecimal digits; b"" when absent or damaged."""
    parts = text.get(RAW_PROFILE + kind, "").strip().split(None, 2)
    try:
        data = bytes.fromhex(parts[2])
        return data if len(data) == int(parts[1]) else b""
    except (IndexError, ValueError):
        return b""


def make_text_chunk(name: str, value: str) -> bytes:
    try:
        keyword = name.encode("latin-1")
    except UnicodeEncodeError:
        keyword = b""
    if not 1 <= len(keyword) <= _KEYWORD_BYTES or "\0" in name or "\0" in value:
        raise InputError(
            f"PNG cannot hold the remark {name[:99]!r}: a name has 1 to {_KEYWORD_BYTES} Latin-1 characters, and neither "
            "name nor text a NUL"
        )
    if name != XMP:  # which readers look for in iTXt only
        with suppress(UnicodeEncodeError):
            return make_chunk(b"tEXt", keyword + b"\0" + value.encode("latin-1"))
    return make_chunk(b"iTXt", keyword + b"\0\0\0\0\0" + value.encode("utf-8"))
