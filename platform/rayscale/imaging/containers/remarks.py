"""Text and resolution in the tags that TIFF and EXIF share."""

from __future__ import annotations

from rayscale.errors import InputError
from rayscale.imaging.containers.ifd import Ifd

INCH, CENTIMETRE = 2, 3
"""Values of tag 296, the unit of the resolution."""

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296

DESCRIPTION = 270
"""The tag for everything that has no tag of its own."""

TEXT = {
    269: "DocumentName", 270: "ImageDescription", 271: "Make", 272: "Model", 305: "Software",
    306: "DateTime", 315: "Artist", 316: "HostComputer", 33432: "Copyright",
}  # fmt: skip


def read_dpi(ifd: Ifd) -> tuple[float, float] | None:
    """Pixels per inch ``(x, y)``, None when not told."""
    unit = {INCH: 1.0, CENTIMETRE: 2.54}.get(ifd.integer(RESOLUTION_UNIT, INCH))
    x, y = ifd.rational(X_RESOLUTION), ifd.rational(Y_RESOLUTION)
    return (x * unit, y * unit) if unit and x and y and x > 0 and y > 0 else None


def read_text(ifd: Ifd) -> dict[str, str]:
    """Name of the tag to its text."""
    text = {name: value for tag, name in TEXT.items() if (value := ifd.text(tag))}
    name = TEXT[DESCRIPTION]
    # Descriptions that repeat the shape of the array are wrong at any other size.
    if text.get(name, "").startswith(('{"shape"', "ImageJ=", "SCIFIO=")):
        del text[name]
    return text


def read_exif(exif: bytes) -> tuple[tuple[float, float] | None, dict[str, str]]:
    """Resolution and remarks; a damaged block has none, see ``exif_orientation``."""
    try:
        ifd = Ifd.first(exif)
        return read_dpi(ifd), read_text(ifd)
    except InputError:
        return None, {}


def text_tags(text: dict[str, str]) -> dict[int, bytes]:
    """Tag to UTF-8 text; what has no tag of its name goes into the description as ``name: text``."""
    tags = {name: tag for tag, name in TEXT.items()}
    lines: dict[int, list[str]] = {}
    for name, value in text.items():
        tag = tags.get(name, DESCRIPTION)
        lines.setdefault(tag, []).append(value if name in tags else f"{name}: {value}")
    return {
        tag: "\n".join(values).replace("\0", "").encode("utf-8") for tag, values in lines.items()
    }
