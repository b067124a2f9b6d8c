"""What is asked of an upscale: one value for every door.

Command line, batch, forecast, HTTP, evaluation and Python build an :class:`Options`; everything below takes it, and readers
and writers its part :class:`Handling`. A new option is a new field here: commands, query parameters, OpenAPI, docs,
the method of a batch and provenance follow. Neither torch nor numpy here, so that a door is light.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from rayscale.errors import ConfigError, shown
from rayscale.fields import check_choices, check_names, choice, choices_of, parse_choices, to_texts

LabelPolicy = Literal["refuse", "nearest"]
MetadataPolicy = Literal["keep", "strip"]
Precision = Literal["auto", "float32", "bfloat16"]
Backend = Literal["auto", "torch", "openvino", "onnxruntime"]
Format = Literal["png", "jpeg", "webp", "tiff"]

SMALLEST_TILE = 16
"""Source pixels; below, parts are not halved any longer either."""

SMALLEST_SCALE = 1.01
"""The first above 1 that an output grid can follow: a fraction whose denominator is at most 100."""


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
    raise ConfigError(f"levels {shown(text)} must be BLACK..WHITE, such as 0..10000")


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
        "collection then agree. Default: measured for each file.",
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
            black, white = _two_numbers(self.levels)
            object.__setattr__(self, "levels", (black, white))  # 0 and 0.0 are one method
            if not (math.isfinite(black) and math.isfinite(white) and black < white):
                raise ConfigError(
                    f"levels must be two finite values, black below white, not {black:g}..{white:g}"
                )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From values by name; ConfigError for a name that there is not, with those that it may be meant as."""
        check_names(cls, given)
        return cls(**given)

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
        """The choices that differ from the defaults and on which the values of an output depend, for methods and provenance."""
        return {
            each.name: _plain(getattr(self, each.name))
            for each in choices_of(self)
            if each.shapes and getattr(self, each.name) != each.default
        }


def _two_numbers(levels: Any) -> tuple[float, float]:
    try:
        if not isinstance(levels, str):  # of which each character might be a number
            black, white = map(float, levels)
            return black, white
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"levels must be two numbers, such as (0, 10000), not {shown(levels)}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Options(Handling):
    """How to upscale. Equal options, the same weights and the same source give the same bytes at every door.

    Args:
        scale: at least 1.01, a fraction that an output grid can follow (``resampling.exact_scale``). None is 2, or the smallest scale
            of a model that does not serve 2.
        ensemble: average over the eight flips and transpositions (the "+" of the papers), at eight times the cost.
        consistency: correct the output by back-projection until it gives the source when shrunk.
        uncertainty: the standard deviation over the eight of the ensemble, before any correction; implies ``ensemble``.
        precision: ``auto`` uses bfloat16 for 8-bit images on hardware that has it, float32 otherwise.
        backend: what computes the layers of the network; results agree up to the rounding of the precision.
        tile: columns of a panel, or side of a tile for a network without a path, in source pixels; None is what is
            fast. Less takes less memory.
        format: of the output; None is that of the source, or of the ending of the output's name.

    Raises ConfigError for any other value.
    """

    scale: float | None = choice(
        None,
        "How many times larger; fractions such as 2.5 where the model can. Default: 2, or the smallest scale of the model.",
        float,
        minimum=SMALLEST_SCALE,
        letter="s",
    )
    ensemble: bool = choice(
        False, 'Average over 8 flips and turns ("+"): better, 8 times the work.', bool
    )
    consistency: bool = choice(
        False,
        "Correct the result until shrinking it gives the input back; report what is left.",
        bool,
    )
    uncertainty: bool = choice(
        False,
        "Write big.uncertainty.tif (NIfTI: .nii) as well: the standard deviation of each value over the ensemble, "
        "float32, in the units of the image. Implies ensemble.",
        bool,
        shapes=False,
    )
    precision: Precision = choice(
        "auto", "auto: bfloat16 for 8-bit images where the hardware has it.", choices=Precision
    )
    backend: Backend = choice(
        "auto",
        "What computes the layers of the network: torch, or openvino or onnxruntime (extras, on the CPU). auto: torch, or "
        "what exported weights are for.",
        choices=Backend,
    )
    tile: int | None = choice(
        None,
        "Columns computed at once, in input pixels: fewer take less memory.",
        int,
        minimum=SMALLEST_TILE,
        shapes=False,
    )
    format: Format | None = choice(
        None,
        "Format of the output. Default: that of the input, or of the ending of the output's name.",
        choices=Format,
        shapes=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None:
            from rayscale.resampling import exact_scale  # and with it numpy

            exact = exact_scale(self.scale)
            # What is whole stays as it is, which the ids of batches hold.
            if exact.denominator == 1 and exact != self.scale:
                object.__setattr__(self, "scale", float(exact))
        if self.uncertainty:
            object.__setattr__(self, "ensemble", True)


DEFAULTS = Options()
