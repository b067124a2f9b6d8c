"""JPEG (ITU T.81, JFIF): 8-bit grey and colour; CMYK, 12-bit and lossless files are refused.

Segments are walked here; only what makes the picture goes to libjpeg. The orientation of EXIF is applied; EXIF, XMP
and IPTC are kept. Of a multi-picture file (MPO, Ultra HDR) the main picture is read.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rayscale.errors import InputError, UnsupportedError, quantity
from rayscale.imaging.containers import remarks
from rayscale.imaging.description import Description
from rayscale.imaging.image import Header, Image
from rayscale.imaging.limits import METADATA_BYTES, check_size
from rayscale.imaging.orientation import exif_orientation, upright, upright_dpi, upright_size
from rayscale.options import DEFAULTS, Handling

QUALITY = 95
"""Least quality written; a source of higher quality keeps its own."""

MAX_SIDE = 65_500
"""libjpeg's limit on width and height."""

MAX_SCANS = 200
"""Progressive files have about 10; thousands in a small file are an attack on time."""

MAX_SEGMENTS = 20_000
"""Segments hold up to 64 KiB each, so real files have a few hundred at most."""

MAX_COMMENT = 65_533

MAX_SEGMENT = 65_533
"""Bytes that a segment holds."""

_EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
PHOTOSHOP = b"Photoshop 3.0\0"
_IPTC = 0x0404
"""The resource of Photoshop that holds IPTC-IIM."""

_SOI, _EOI, _SOS, _COM, _APP0, _APP1, _APP2, _APP13, _APP14 = (
    0xD8,
    0xD9,
    0xDA,
    0xFE,
    0xE0,
    0xE1,
    0xE2,
    0xED,
    0xEE,
)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_DECODABLE = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
# The next marker after coded pixels: not a stuffed zero, a restart, or a fill byte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

# Luminance table of T.81 annex K in its order of storage, to judge the quality of a source by.
_LUMINANCE = np.array([
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37,
    29, 40, 58, 51, 61, 60, 57, 51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87,
    95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99,
], dtype=np.float64)  # fmt: skip


@dataclass
class _Segments:
    """What the segments of one file say, as far as they were walked."""

    frame: int = 0
    precision: int = 8
    width: int = 0
    height: int = 0
    components: int = 0
    exif: bytes = b""
    xmp: bytes = b""
    resources: bytes = b""
    dpi: tuple[float, float] | None = None
    icc: dict[int, bytes] = field(default_factory=dict)
    comments: list[bytes] = field(default_factory=list)
    table: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    ended: bool = True
    """Whether the end marker is there."""
    unrefined: dict[int, set[int]] = field(default_factory=dict)
    """Component to coefficients of which no scan has told the last bit yet."""
    lean: list[bytes] = field(default_factory=list)
    """The file without its metadata."""

    @property
    def header(self) -> Header:
        if self.frame not in _DECODABLE or self.precision != 8:
            raise UnsupportedError(
                f"JPEG of {self.precision} bit in coding process SOF{self.frame - 0xC0} is not handled "
                "(8 bit baseline and progressive are); convert it to PNG"
            )
        if self.components not in (1, 3):
            what = "CMYK" if self.components == 4 else f"of {self.components} components"
            raise UnsupportedError(
                f"JPEG is {what}; only grey and RGB are handled: convert it first"
            )
        width, height = upright_size(self.width, self.height, exif_orientation(self.exif))
        return Header("jpeg", width, height, channels=self.components, bits=8)


def probe(data: bytes) -> Header:
    """Header of a JPEG; segments are walked up to the first scan."""
    return _walk(data, header_only=True).header


def read(data: bytes, max_pixels: int, handling: Handling = DEFAULTS) -> Image:
    """Decode a JPEG to uint8, upright."""
    check_size(probe(data), max_pixels)
    segments = _walk(data, header_only=False)
    if not segments.ended:
        segments.notes.append("the file has no end marker; its picture is whole")
    pixels = _decode(b"".join(segments.lean), segments.ended)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    expected = (segments.height, segments.width, segments.components)
    if pixels.shape != expected:
        raise InputError(f"JPEG decodes to {pixels.shape}, but its header says {expected}: damaged")
    orientation = exif_orientation(segments.exif)
    dpi, text = remarks.read_exif(segments.exif)
    comment = "\n".join(_decode_text(value) for value in segments.comments).strip()
    encoding: dict[str, Any] = {"quality": _quality(segments.table)}
    pixels = upright(pixels, orientation)
    description, notes = Description.read(
        (pixels.shape[1], pixels.shape[0]),
        orientation,
        exif_block=segments.exif,
        packet=segments.xmp,
        iptc=iptc_of(segments.resources),
    )
    if segments.frame in (0xC2, 0xCA):
        encoding["progressive"] = True
    return Image(
        pixels=pixels,
        container="jpeg",
        icc=b"".join(segments.icc[number] for number in sorted(segments.icc)) or None,
        dpi=upright_dpi(segments.dpi or dpi, orientation),
        text={"comment": comment, **text} if comment else text,
        description=description,
        encoding=encoding,
        notes=(*segments.notes, *notes),
    )


def write(image: Image) -> bytes:
    """Encode 8-bit grey or RGB at full colour resolution (4:4:4), quality 95 or the source's if higher.

    JPEG has one comment: remarks other than ``comment``, and those of EXIF, follow it as lines ``name: text``.
    """
    from PIL import Image as PillowImage

    if image.bits != 8 or image.channels not in (1, 3) or image.alpha is not None:
        raise UnsupportedError(
            f"JPEG holds 8-bit grey or RGB without alpha; the image has {quantity(image.channels, 'channel')} of "
            f"{image.bits} bits{' and alpha' if image.alpha is not None else ''}: write it as PNG or TIFF"
        )
    description = image.fitted_description
    told = remarks.read_exif((description and description.exif) or b"")[1]
    lines = [
        value if name == "comment" else f"{name}: {value}"
        for name, value in image.text.items()
        if told.get(name) != value
    ]
    comment = "\n".join(lines).encode("utf-8")
    if len(comment) > MAX_COMMENT:
        raise InputError(f"JPEG comment of {len(comment)} bytes is over the limit of {MAX_COMMENT}")
    options: dict[str, Any] = {"icc_profile": image.icc} if image.icc else {}
    if image.dpi and all(1 <= round(value) <= 65535 for value in image.dpi):
        options["dpi"] = (round(image.dpi[0]), round(image.dpi[1]))
    if comment:
        options["comment"] = comment
    pixels = image.pixels[:, :, 0] if image.channels == 1 else image.pixels
    out = io.BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(pixels)).save(
        out,
        "JPEG",
        quality=min(100, max(QUALITY, int(image.encoding.get("quality", 0)))),
        subsampling=0,
        optimize=False,
        progressive=bool(image.encoding.get("progressive", False)),
        **options,
    )
    data = out.getvalue()
    if description is None:
        return data
    at = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
    return data[:at] + _describe(description) + data[at:]


def fits(name: str, block: bytes) -> bool:
    """Whether a block of a ``Description`` fits into one segment, as its standard asks."""
    return len(_BODIES[name](block)) <= MAX_SEGMENT


def _describe(description: Description) -> bytes:
    """Segments of what fits."""
    found = b""
    for name, marker in (("exif", _APP1), ("xmp", _APP1), ("iptc", _APP13)):
        block = getattr(description, name)
        if block and fits(name, block):
            body = _BODIES[name](block)
            found += struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body
    return found


def resources_of(iptc: bytes) -> bytes:
    """Resources of Photoshop that hold records of IPTC-IIM."""
    head = struct.pack(">4sHHI", b"8BIM", _IPTC, 0, len(iptc))
    return head + iptc + b"\0" * (len(iptc) % 2)


_BODIES: dict[str, Callable[[bytes], bytes]] = {
    "exif": lambda block: _EXIF + block,
    "xmp": lambda block: XMP + block,
    "iptc": lambda block: PHOTOSHOP + resources_of(block),
}


def iptc_of(resources: bytes) -> bytes | None:
    """The records of IPTC-IIM among the resources of Photoshop; of those, thumbnails and sizes are stale."""
    at = 0
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        kind = int.from_bytes(resources[at + 4 : at + 6], "big")
        start = at + 7 + resources[at + 6]
        start += start % 2
        length = int.from_bytes(resources[start : start + 4], "big")
        end = start + 4 + length
        if end > len(resources):
            break
        if kind == _IPTC:
            return resources[start + 4 : end]
        at = end + length % 2
    return None


def frame_size(data: bytes) -> tuple[int, int]:
    """Width and height in the frame header of a JPEG stream; TIFF strips and tiles are such streams."""
    segments = _walk(data, header_only=True)
    return segments.width, segments.height


def _walk(data: bytes, *, header_only: bool) -> _Segments:
    found = _Segments(lean=[data[:2]])
    at, scans = 2, 0
    for _ in range(MAX_SEGMENTS):
        if at + 2 > len(data):
            if scans and not any(found.unrefined.values()):
                found.ended = False
                return found
            raise InputError(f"JPEG is cut short: {len(data)} bytes without an end marker")
        if data[at] != 0xFF:
            raise InputError(f"JPEG is damaged: no segment begins at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == _EOI:
            if not scans:
                raise InputError("JPEG holds no pixel data")
            found.lean.append(data[at : at + 2])
            return found
        end = _end_of_segment(data, at)
        body = data[at + 4 : end]
        if marker == _SOS:
            if not found.frame:
                raise InputError("JPEG is damaged: pixel data comes before the frame header")
            if header_only:
                return found
            scans += 1
            _refine(found, body)
            end = _end_of_scan(data, end, scans)
        else:
            _take(found, marker, body)
        if _makes_picture(marker, body):
            found.lean.append(data[at:end])
        at = end
    raise InputError(f"JPEG has more than {MAX_SEGMENTS} segments; re-save it")


def _refine(found: _Segments, body: bytes) -> None:
    """Note what the scan of this header tells: coefficients of components, down to which bit (T.81, B.2.3)."""
    if not body or len(body) < 4 + 2 * body[0]:
        raise InputError("JPEG scan header is damaged")
    first, last, approximation = body[1 + 2 * body[0] : 4 + 2 * body[0]]
    for component in body[1 : 1 + 2 * body[0] : 2]:
        if approximation & 15 == 0:
            found.unrefined.setdefault(component, set()).difference_update(range(first, last + 1))


def _decode(lean: bytes, ended: bool) -> np.ndarray:
    """The pixels; a file without its end marker is read when its scans are whole."""
    if ended:
        return _decode_whole(lean)
    # libjpeg takes what is missing of a scan for zeros. Of a whole scan it does not look at what follows.
    with suppress(OSError):
        pixels = _decode_whole(lean + b"\xff\xd9")
        if np.array_equal(pixels, _decode_whole(lean + b"\xa5\x5a" * 512 + b"\xff\xd9")):
            return pixels
    raise InputError("JPEG is cut short: its pixel data ends early, without an end marker")


def _decode_whole(lean: bytes) -> np.ndarray:
    """By Pillow's plug-in, as ``Image.open`` has limits and warnings of its own; in strips, as it makes two copies of a whole."""
    from PIL import JpegImagePlugin

    with JpegImagePlugin.JpegImageFile(io.BytesIO(lean)) as picture:
        (width, height), bands = picture.size, len(picture.getbands())
        pixels = np.empty((height, width, bands) if bands > 1 else (height, width), np.uint8)
        for y in range(0, height, 256):
            pixels[y : y + 256] = np.asarray(picture.crop((0, y, width, min(height, y + 256))))
        return pixels


def _end_of_segment(data: bytes, at: int) -> int:
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    end = at + 2 + length
    if length < 2 or end > len(data):
        raise InputError(
            f"JPEG is cut short or damaged: segment {data[at + 1]:02X} at byte {at} needs {length} "
            f"bytes, {len(data) - at - 2} are there"
        )
    return end


def _end_of_scan(data: bytes, start: int, scans: int) -> int:
    if scans > MAX_SCANS:
        raise InputError(f"JPEG has more than {MAX_SCANS} scans; re-save it")
    following = _MARKER.search(data, start)
    return following.start() if following else len(data.rstrip(b"\xff"))


def _makes_picture(marker: int, body: bytes) -> bool:
    """Whether the decoder needs this segment; JFIF and Adobe segments tell it the colour space."""
    if marker == _APP0:
        return body[:5] == b"JFIF\0"
    return marker == _APP14 or not (_APP0 <= marker <= 0xEF or marker == _COM)


def _take(found: _Segments, marker: int, body: bytes) -> None:
    """Note what one segment says."""
    if marker in _FRAMES:
        if found.frame:
            raise UnsupportedError(
                "JPEG has several frames (hierarchical coding), which is not handled"
            )
        if len(body) < 6 or len(body) < 6 + 3 * body[5]:
            raise InputError("JPEG frame header is damaged")
        found.frame, found.precision, found.components = marker, body[0], body[5]
        found.unrefined = {body[at]: set(range(64)) for at in range(6, 6 + 3 * body[5], 3)}
        found.height = int.from_bytes(body[1:3], "big")
        found.width = int.from_bytes(body[3:5], "big")
        if not found.width or not found.height:
            raise InputError(
                f"JPEG header claims {found.width} x {found.height} pixels: nothing to read"
            )
    elif marker == 0xDB and found.table is None and len(body) >= 65 and body[0] >> 4 == 0:
        found.table = np.frombuffer(body, np.uint8, 64, 1)
    elif marker == _APP0 and body[:5] == b"JFIF\0" and len(body) >= 12:
        unit = {1: 1.0, 2: 2.54}.get(body[7])
        x, y = int.from_bytes(body[8:10], "big"), int.from_bytes(body[10:12], "big")
        if unit and x and y:
            found.dpi = (x * unit, y * unit)
    elif marker == _APP1 and body.startswith(_EXIF) and not found.exif:
        found.exif = body.removeprefix(_EXIF)
    elif marker == _APP1 and body.startswith(XMP) and not found.xmp:
        found.xmp = body.removeprefix(XMP)
    elif marker == _APP13 and body.startswith(PHOTOSHOP) and len(found.resources) < METADATA_BYTES:
        found.resources += body.removeprefix(PHOTOSHOP)
    elif marker == _APP2 and body[:12] == b"ICC_PROFILE\0" and len(body) > 14:
        found.icc.setdefault(body[12], body[14:])
    elif marker == _COM:
        found.comments.append(body)


def _decode_text(value: bytes) -> str:
    try:
        return value.decode("utf-8").replace("\0", "")
    except UnicodeDecodeError:
        return value.decode("latin-1").replace("\0", "")


def _quality(table: np.ndarray | None) -> int:
    """libjpeg quality (1 to 100) whose luminance table is nearest to ``table``."""
    if table is None:
        return QUALITY
    percent = float(np.median(table / _LUMINANCE)) * 100 if table.max() > 1 else 0.0
    quality = (200 - percent) / 2 if percent <= 100 else 5000 / percent
    return int(min(100, max(1, np.ceil(quality))))
