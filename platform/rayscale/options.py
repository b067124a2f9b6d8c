"""What is asked of an upscale: one value for every door.

Command line, batch, forecast, HTTP, evaluation and Python build an :class:`Options`; everything below takes it. A new
option is a new field here (or in :class:`rayscale.imaging.handling.Handling`, for readers and writers): commands, query
parameters, OpenAPI, docs, recipes and provenance follow. No torch here, so that a door without a network is light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rayscale.errors import ConfigError
from rayscale.fields import choice
from rayscale.imaging.handling import Handling
from rayscale.resampling import exact_scale

Precision = Literal["auto", "float32", "bfloat16"]
Format = Literal["png", "jpeg", "webp", "tiff"]

SMALLEST_TILE = 16
"""Source pixels; below, parts are not halved any more either."""


@dataclass(frozen=True)
class Options(Handling):
    """How to upscale. Equal options, the same weights and the same source give the same bytes at every door.

    Args:
        scale: above 1, with at most the digits that an output grid can follow. None is 2, or the smallest scale
            of a model that does not serve 2.
        ensemble: average over the eight flips and transpositions (the "+" of the papers), at eight times the cost.
        consistency: correct the output by back-projection until it gives the source when shrunk.
        uncertainty: the standard deviation over the eight of the ensemble, before any correction; implies ``ensemble``.
        precision: ``auto`` uses bfloat16 for 8-bit images on hardware that has it, float32 otherwise.
        tile: columns of a panel, or side of a tile for a network without a path, in source pixels; None is what is
            fast. Less takes less memory.
        format: of the output; None is that of the source, or of the ending of the output's name.

    Raises ConfigError for any other value.
    """

    scale: float | None = choice(
        None,
        "How many times larger; 2.5 where the model can. Default: 2, or the smallest scale of the model.",
        float,
        letter="s",
    )
    ensemble: bool = choice(
        False, 'Average over 8 flips and turns ("+"): better, 8 times the work.', bool
    )
    consistency: bool = choice(
        False,
        "Correct the result until shrinking it gives the input back; tells what is left.",
        bool,
    )
    uncertainty: bool = choice(
        False,
        "Write big.uncertainty.tif (NIfTI: .nii) besides: the standard deviation of each value over the ensemble, "
        "float32, in the units of the image. Implies ensemble.",
        bool,
        shapes=False,
    )
    precision: Precision = choice(
        "auto", "auto: bfloat16 for 8-bit images where the hardware has it.", choices=Precision
    )
    tile: int | None = choice(
        None,
        "Columns computed at once, in input pixels: less takes less memory.",
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
            if not self.scale >= 1:
                raise ConfigError(f"scale must be at least 1, not {self.scale:g}")
            exact_scale(self.scale)
        if self.uncertainty:
            object.__setattr__(self, "ensemble", True)


DEFAULTS = Options()
