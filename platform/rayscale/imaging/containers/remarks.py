"""Text and resolution in the tags that TIFF and EXIF share."""

from __future__ import annotations

from rayscale.errors import InputError
from rayscale.imaging.containers.ifd import Ifd

OTHER, INCH, CENTIMETRE = 1, 2, 3
"""Values of tag 296, the unit of the resolution."""

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296

DESCRIPTION = 270
"""The tag for everything that has no tag of its own."""

TEXT = {
    269: "DocumentName", 270: "ImageDescription", 271: "Make", 272: "Model", 305: "Software",
    306: "DateTime", 315: "Artist", 316: "HostComputer", 33432: "Copyright",
}  # fmt: skip


_IMAGEJ = "ImageJ="
# Lines of ImageJ that count pictures; the unit stands in one of its own.
_COUNTS = ("images=", "slices=", "frames=", "channels=", "hyperstack=", "loop=")
_INCHES = {
    unit: metres / 0.0254
    for metres, units in (
        (1e-9, ("nm", "nanometer")),
        (1e-6, ("um", "µm", "μm", "\\u00b5m", "micron", "microns", "micrometer")),
        (1e-3, ("mm", "millimeter")),
        (1e-2, ("cm", "centimeter")),
        (1.0, ("m", "meter")),
        (0.0254, ("inch", "inches", "in")),
    )
    for unit in units
}
"""Inches in one unit of ImageJ."""


def is_stale(description: str) -> bool:
    """Whether a description repeats the shape of the array, as tifffile and SCIFIO write it: wrong at any other size."""
    return description.startswith(('{"shape"', "SCIFIO="))


def calibrated_inches(description: str | None) -> float | None:
    """Inches in the unit that a description of ImageJ gives to a resolution without one; None for any other text."""
    return _INCHES.get(_unit(description or "").lower())


def _unit(description: str) -> str:
    """What ImageJ calls the unit of its resolution, "" without."""
    if not description.startswith(_IMAGEJ):
        return ""
    lines = (line.removeprefix("unit=") for line in description.splitlines() if line[:5] == "unit=")
    return next(lines, "").strip()


def notes_of(ifd: Ifd) -> tuple[str, ...]:
    """What is lost with a description that cannot be kept true."""
    description = ifd.text(DESCRIPTION) or ""
    unit = _unit(description)
    if unit and unit != "pixel" and calibrated_inches(description) is None:
        return (f"the calibration of ImageJ in {unit[:40]!r} is not kept: the unit is not known",)
    if description.startswith('{"shape"') and description.count('": ') > 1:
        return ("the description of tifffile is not kept: it tells the shape of the array",)
    return ()


def read_dpi(ifd: Ifd) -> tuple[float, float] | None:
    """Pixels per inch ``(x, y)``, None when not told."""
    unit = {INCH: 1.0, CENTIMETRE: 2.54}.get(ifd.integer(RESOLUTION_UNIT, INCH))
    if (inches := calibrated_inches(ifd.text(DESCRIPTION))) is not None:
        unit = 1 / inches
    x, y = ifd.rational(X_RESOLUTION), ifd.rational(Y_RESOLUTION)
    return (x * unit, y * unit) if unit and x and y and x > 0 and y > 0 else None


def read_text(ifd: Ifd) -> dict[str, str]:
    """Name of the tag to its text."""
    text = {name: value for tag, name in TEXT.items() if (value := ifd.text(tag))}
    name = TEXT[DESCRIPTION]
    description = text.get(name, "")
    if is_stale(description):
        del text[name]
    elif description.startswith(_IMAGEJ):
        if calibrated_inches(description) is None:
            del text[name]
        else:
            lines = (line for line in description.splitlines() if not line.startswith(_COUNTS))
            text[name] = "\n".join(lines)
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
