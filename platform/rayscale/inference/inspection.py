"""What is known of a file and what an upscale would do with it, told without doing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rayscale.errors import RayscaleError
from rayscale.imaging import Header, Image, heed_name, probe, read_image
from rayscale.imaging.image import Metadata
from rayscale.imaging.levels import Levels
from rayscale.imaging.limits import check_output
from rayscale.imaging.scene import Scene, is_scene, probe_scene
from rayscale.inference.memory import working_bytes
from rayscale.options import Options
from rayscale.resampling import enlarged


@dataclass
class Inspection:
    """A file, seen through the readers of every upscale.

    Attributes:
        container: as the content says, None where it is unknown. bytes: of the file.
        width, height, channels, bits, slices, pages, alpha: as in :class:`rayscale.imaging.Header`.
        metadata: what the container keeps besides the pixels, such as place, spacing, colour profile.
        levels: the stored values that a network sees as black and white, and the rule that found them.
        missing: share of the pixels without a measurement, 0 to 1; None where a scene does not tell without a pass.
        labels: channels of class numbers or bit fields.
        notes: what the reader says of the file.
        refusal: why it cannot be upscaled, None when it can.
        scale, output_width, output_height: of an upscale.
        windowed: whether it is read and written by windows.
        memory_bytes: an estimate of what an upscale takes besides the process, None for what goes by windows.
    """

    file: str
    bytes: int
    container: str | None = None
    width: int | None = None
    height: int | None = None
    channels: int | None = None
    bits: int | None = None
    slices: int = 1
    pages: int = 1
    alpha: bool = False
    pixel_type: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    levels: dict[str, Any] | None = None
    missing: float | None = None
    labels: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusal: str | None = None
    scale: float = 2
    output_width: int | None = None
    output_height: int | None = None
    windowed: bool = False
    memory_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        return asdict(self)


def inspect_file(
    path: Path,
    options: Options,
    check: Callable[[Path, Header], tuple[str, ...]] = lambda path, header: (),
) -> Inspection:
    """Read a file as an upscale would and tell what came of it; a refusal is a finding, not an error.

    Args:
        check: what the caller refuses besides (files beside it, memory), by raising RayscaleError, or notes.

    Raises OSError when the file cannot be opened.
    """
    scale = options.scale or 2
    windowed = options.ensemble or options.consistency
    found = Inspection(str(path), path.stat().st_size, scale=scale)
    try:
        found.windowed = is_scene(path)
        header = probe_scene(path) if found.windowed else probe(path.read_bytes())
        _take_header(found, header)
        beside = check(path, header)
        if not found.windowed:
            check_output(header, scale)
            found.memory_bytes = working_bytes(header, scale, windowed=windowed)
        if found.windowed:
            with Scene(path, handling=options) as scene:
                _take_scene(found, scene)
        else:
            _take_image(found, read_image(path.read_bytes(), handling=options))
        found.notes += [*beside, *heed_name(path.name, header.container)]
    except RayscaleError as error:
        found.refusal = str(error)
    return found


def _take_header(found: Inspection, header: Header) -> None:
    for name in ("container", "width", "height", "channels", "bits", "slices", "pages", "alpha"):
        setattr(found, name, getattr(header, name))
    found.output_width = enlarged(header.width, found.scale)
    found.output_height = enlarged(header.height, found.scale)


def _take_scene(found: Inspection, scene: Scene) -> None:
    found.channels, found.pixel_type = scene.channels, str(scene.dtype)
    found.metadata = _describe(scene.metadata)
    found.levels, found.labels = scene.levels.describe(), list(scene.labels)
    found.notes = list(scene.notes)


def _take_image(found: Inspection, image: Image) -> None:
    found.channels, found.pixel_type = image.channels, str(image.pixels.dtype)
    facts = {
        "icc": None if image.icc is None else f"{len(image.icc)} bytes",
        "dpi": None if image.dpi is None else list(image.dpi),
        "text": sorted(image.text) or None,
    }
    found.metadata = {key: value for key, value in facts.items() if value is not None}
    if image.description is not None:
        blocks = ("exif", "xmp", "iptc")
        found.metadata["kept"] = [
            name.upper() for name in blocks if getattr(image.description, name) is not None
        ]
    found.metadata |= _describe(image.metadata)
    levels = image.levels or Levels.of_picture(image.pixels)
    found.levels, found.labels = levels.describe(), list(image.labels)
    missing = image.missing
    found.missing = 0.0 if missing is None else float(1 - missing.valid.mean())
    found.notes = list(image.notes)


def _describe(metadata: Metadata | None) -> dict[str, Any]:
    return {} if metadata is None else metadata.describe()
