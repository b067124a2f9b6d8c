"""How files are read and written: what the user decides where a file leaves room, the same at every door."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from rayscale.errors import ConfigError
from rayscale.fields import check_choices, choice, choices_of, parse_choices, to_texts

LabelPolicy = Literal["refuse", "nearest"]
MetadataPolicy = Literal["keep", "strip"]


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

    levels: tuple[float, float] | None = choice(
        None,
        "Stored values that the network sees as black and white, such as 0..10000, for all files: scenes of one "
        "collection then agree. Without it they come from each file.",
        metavar="BLACK..WHITE",
        read=parse_levels,
        write=lambda levels: "{!r}..{!r}".format(*levels),
    )
    labels: LabelPolicy = choice(
        "refuse",
        "Class maps and bit fields: refuse them, or enlarge them by nearest neighbour.",
        choices=LabelPolicy,
    )
    metadata: MetadataPolicy = choice(
        "keep",
        "strip drops EXIF, XMP, GPS and remarks; colours and place stay.",
        choices=MetadataPolicy,
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if self.levels is not None:
            black, white = map(float, self.levels)
            object.__setattr__(self, "levels", (black, white))  # 0 and 0.0 are one recipe
            if not (math.isfinite(black) and math.isfinite(white) and black < white):
                raise ConfigError(
                    f"levels must be two finite values, black below white, not {black:g}..{white:g}"
                )

    @classmethod
    def parse(cls, **texts: Any) -> Self:
        """From the text forms of a command line or a query, by name; ``levels`` reads ``BLACK..WHITE``."""
        return cls(**parse_choices(cls, texts))

    def to_texts(self) -> dict[str, Any]:
        """What :meth:`parse` takes to make the same value."""
        return to_texts(self)

    def refuse(self, name: str, reason: str) -> None:
        """Raise ConfigError with the reason, for a door that cannot do what the choice ``name`` asks for."""
        if name in to_texts(self):
            raise ConfigError(f"{name} is not possible here: {reason}")

    def to_dict(self) -> dict[str, Any]:
        """The choices that differ from the defaults and on which the values of an output depend, for recipes and provenance."""
        return {
            each.name: _plain(getattr(self, each.name))
            for each in choices_of(self)
            if each.shapes and getattr(self, each.name) != each.default
        }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


DEFAULT = Handling()
