"""Compressed frames of DICOM: what their streams say of themselves, read before a decoder believes it."""

from __future__ import annotations

from rayscale.errors import InputError
from rayscale.imaging.image import Header

_NO_FRAMES = (0xC4, 0xC8, 0xCC)  # of C0 to CF, those that begin no frame
_JPEG_LS = 0xF7
_RGB_IDS = (b"RGB", b"rgb")


def check_frame(frame: bytes, header: Header) -> str | None:
    """The colour space that a stream tells: ``RGB``, ``YBR_FULL``, or None where only the tags know.

    Raises InputError when its size is not that of the tags.
    """
    size = colours = None
    if (at := frame.find(b"\xff\x4f\xff\x51", 0, 1024)) >= 0:  # JPEG 2000: SOC and SIZ
        x1, y1, x0, y0 = (
            int.from_bytes(frame[at + 8 + 4 * i : at + 12 + 4 * i], "big") for i in range(4)
        )
        size = (x1 - x0, y1 - y0)
    elif frame.startswith(b"\xff\xd8"):
        size, colours = _read_jpeg(frame)
    else:
        return None  # RLE has no size of its own
    if size != (header.width, header.height):
        claim = "no size" if size is None else f"{size[0]} x {size[1]} pixels"
        raise InputError(
            f"DICOM frame claims {claim}, but its tags say {header.width} x {header.height}: damaged"
        )
    return colours


def _read_jpeg(frame: bytes) -> tuple[tuple[int, int] | None, str | None]:
    """Size and colour space of a JPEG or JPEG-LS stream: walk the segments up to the frame header.

    Components named R, G, B are those; JFIF is YCbCr, Adobe says which, and what has fewer samples is chroma (T.871, T.872).
    Without any of these Photometric Interpretation decides.
    """
    at, told = 2, None
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        body = frame[at + 4 : end]
        if (0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES) or marker == _JPEG_LS:
            size = (int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big"))
            if len(body) < 15 or body[5] != 3:
                return size, None
            if body[6:15:3] in _RGB_IDS:
                told = "RGB"
            if told is None and marker != _JPEG_LS and len(set(body[7:15:3])) > 1:
                told = "YBR_FULL"
            return size, told
        if marker == 0xE0 and body.startswith(b"JFIF"):
            told = "YBR_FULL"
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12 and told is None:
            told = "YBR_FULL" if body[11] else "RGB"
        at = end
    return None, None
