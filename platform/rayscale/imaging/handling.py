"""How files are read and written: what the user decides where a file leaves room, the same at every door."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rayscale.errors import ConfigError

LabelPolicy = Literal["refuse", "nearest"]
MetadataPolicy = Literal["keep", "strip"]


@dataclass(frozen=True)
class Handling:
    """The options of reading and writing. The defaults lose nothing and invent nothing.

    Args:
        levels: stored values that are black and white, for all bands of all files; a collection whose scenes must
            agree needs them. None takes them from each file, see ``rayscale.imaging.levels``.
        labels: what becomes of class numbers and bit fields, which must not be interpolated: an error, or
            each output pixel takes the nearest input pixel.
        metadata: ``strip`` drops what describes the picture and is not needed to show or place it: EXIF, XMP, remarks.

    Raises ConfigError for any other value.
    """

    levels: tuple[float, float] | None = None
    labels: LabelPolicy = "refuse"
    metadata: MetadataPolicy = "keep"

    def __post_init__(self) -> None:
        for name, kind in (("labels", LabelPolicy), ("metadata", MetadataPolicy)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ConfigError(
                    f"{name} must be one of {', '.join(get_args(kind))}, not {value!r}"
                )
        if self.levels is not None:
            black, white = self.levels
            if not (math.isfinite(black) and math.isfinite(white) and black < white):
                raise ConfigError(
                    f"levels must be two finite values, black below white, not {black:g}..{white:g}"
                )

    @classmethod
    def parse(
        cls,
        levels: str | None = None,
        labels: str = "refuse",
        metadata: str = "keep",
    ) -> Handling:
        """From the text of a command line or a query; ``levels`` reads ``BLACK..WHITE``, such as ``0..10000``."""
        return cls(None if levels is None else parse_levels(levels), labels, metadata)  # type: ignore[arg-type]  # checked

    def to_dict(self) -> dict[str, Any]:
        """The options that differ from the defaults, for recipes and provenance."""
        values = {
            "levels": None if self.levels is None else list(self.levels),
            "labels": self.labels,
            "metadata": self.metadata,
        }
        defaults = {"levels": None, "labels": "refuse", "metadata": "keep"}
        return {key: value for key, value in values.items() if value != defaults[key]}


DEFAULT = Handling()


def parse_levels(text: str) -> tuple[float, float]:
    """``BLACK..WHITE`` as two numbers.

    Raises ConfigError for any other text.
    """
    black, separator, white = text.partition("..")
    try:
        if separator:
            return float(black), float(white)
    except ValueError:
        pass
    raise ConfigError(f"levels {text!r} must read BLACK..WHITE, such as 0..10000")
