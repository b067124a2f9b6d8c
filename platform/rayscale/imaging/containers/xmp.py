"""XMP (ISO 16684-1): a packet of XML, kept when its picture changes its size.

Properties are edited as text, by the prefix of their namespace. Nothing is parsed, so the packet stays as its writer
made it, and no entity is ever expanded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_PANORAMA = "http://ns.google.com/photos/1.0/panorama/"
_DRONE = "http://www.dji.com/drone-dji/1.0/"

# Directories of what lay behind the picture or in other segments: gain maps, videos, depth, the rest of the packet.
_ELSEWHERE = {
    "http://ns.google.com/photos/1.0/container/": ("Directory",),
    "http://ns.adobe.com/hdr-gain-map/1.0/": ("Version",),
    "http://ns.google.com/photos/1.0/camera/": ("MotionPhoto", "MicroVideo", "MicroVideoOffset"),
    "http://ns.adobe.com/xmp/note/": ("HasExtendedXMP",),
}

_PREFIXES = 4

Change = Callable[[str], str]


def resized(
    packet: bytes,
    size: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    *,
    turned: bool = False,
) -> bytes | None:
    """``packet`` for a picture that was enlarged to ``size`` (width, height); None for one that is not UTF-8.

    Sizes, resolutions and places in pixels follow, and so do the panorama and the calibration of a drone's camera; the
    thumbnail and what tells of other parts of the source are gone. ``turned``: its orientation was applied.
    """
    try:
        text = packet.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if turned:
        text = _change(text, _TIFF, "Orientation", lambda _: "1")
    wide, high = (_scale(factor) for factor in scale)
    exact = {
        (_TIFF, "ImageWidth"): 0, (_TIFF, "ImageLength"): 1,
        (_EXIF, "PixelXDimension"): 0, (_EXIF, "PixelYDimension"): 1,
        (_PANORAMA, "CroppedAreaImageWidthPixels"): 0, (_PANORAMA, "CroppedAreaImageHeightPixels"): 1,
    }  # fmt: skip
    for (space, name), axis in exact.items():
        text = _change(text, space, name, lambda _, axis=axis: str(size[axis]))  # type: ignore[misc]
    scaled = {
        _TIFF: (("XResolution", wide), ("YResolution", high)),
        _EXIF: (("FocalPlaneXResolution", wide), ("FocalPlaneYResolution", high)),
        _PANORAMA: (
            ("FullPanoWidthPixels", wide), ("FullPanoHeightPixels", high),
            ("CroppedAreaLeftPixels", wide), ("CroppedAreaTopPixels", high),
            ("LargestValidInteriorRectLeft", wide), ("LargestValidInteriorRectTop", high),
            ("LargestValidInteriorRectWidth", wide), ("LargestValidInteriorRectHeight", high),
        ),
        _DRONE: (
            ("CalibratedFocalLength", wide), ("CalibratedOpticalCenterX", wide),
            ("CalibratedOpticalCenterY", high), ("DewarpData", _dewarp(scale)),
        ),
    }  # fmt: skip
    for space, changes in scaled.items():
        for name, change in changes:
            text = _change(text, space, name, change)
    for name in ("SubjectArea", "SubjectLocation"):
        text = _drop(text, _EXIF, name)
    text = _drop(text, _XMP, "Thumbnails")
    for space, names in _ELSEWHERE.items():
        for name in names:
            text = _drop(text, space, name)
    return text.encode("utf-8")


def tells_of_more(packet: bytes) -> bool:
    """Whether the packet says that the file has more than one picture: a gain map, a video, depth."""
    text = packet.decode("utf-8", "replace")
    return any(_drop(text, space, name) != text for space, names in _ELSEWHERE.items() for name in names)  # fmt: skip


def _prefixes(text: str, space: str) -> list[str]:
    """Prefixes of a namespace; a packet has one, and a hostile one shall not make work of thousands."""
    found = re.findall(rf"xmlns:([\w.-]{{1,99}})\s*=\s*[\"']{re.escape(space)}[\"']", text)
    return list(dict.fromkeys(found))[:_PREFIXES]


def _change(text: str, space: str, name: str, change: Change) -> str:
    """The text with the simple property changed, written as an attribute or as an element."""
    for prefix in _prefixes(text, space):
        title = f"{re.escape(prefix)}:{name}"
        for pattern in (
            rf"(\s{title}\s*=\s*\")([^\"<]*)(\")",
            rf"(\s{title}\s*=\s*')([^'<]*)(')",
            rf"(<{title}(?:\s[^<>]*)?>)([^<]*)(</{title}\s*>)",
        ):
            text = re.sub(pattern, lambda m: m[1] + change(m[2]) + m[3], text)
    return text


def _drop(text: str, space: str, name: str) -> str:
    """The text without a property, however it is structured."""
    for prefix in _prefixes(text, space):
        title = f"{re.escape(prefix)}:{name}"
        text = re.sub(rf"\s{title}\s*=\s*(?:\"[^\"<]*\"|'[^'<]*')", "", text)
        text = re.sub(rf"<{title}(?:\s[^<>]*)?/>", "", text)
        opening = re.compile(rf"<{title}(?:\s[^<>]*)?>")
        closing = re.compile(rf"</{title}\s*>")
        kept, at = "", 0
        while (first := opening.search(text, at)) and (last := closing.search(text, first.end())):
            kept += text[at : first.start()]
            at = last.end()
        text = kept + text[at:]
    return text


def _scale(factor: float) -> Change:
    """Multiply a number, keeping its form: an integer, a fraction ``n/d``, or a decimal. Anything else stays."""

    def change(value: str) -> str:
        text = value.strip()
        try:
            if re.fullmatch(r"\d{1,18}", text):
                return str(round(int(text) * factor))
            if re.fullmatch(r"\d{1,18}/\d{1,18}", text):
                ratio = Fraction(text) * Fraction(factor).limit_denominator(10**6)
                return f"{ratio.numerator}/{ratio.denominator}"
            if re.fullmatch(r"[+-]?\d{1,18}\.\d{0,18}", text):
                return f"{float(text) * factor:.{len(text.partition('.')[2])}f}"
        except ZeroDivisionError:
            pass
        return value

    return change


def _dewarp(scale: tuple[float, float]) -> Change:
    """DJI's ``date;fx,fy,cx,cy,k1,...``: the first four are in pixels."""

    def change(value: str) -> str:
        date, semicolon, numbers = value.partition(";")
        parts = numbers.split(",")
        if not semicolon or len(parts) < 4:
            return value
        changes = [_scale(factor) for factor in (*scale, *scale)]
        return f"{date};" + ",".join([*(c(p) for c, p in zip(changes, parts[:4], strict=True)), *parts[4:]])  # fmt: skip

    return change
