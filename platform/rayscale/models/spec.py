"""``ModelSpec``: everything needed to rebuild a network, as a value that travels inside weight files.

Which names exist and which defaults they have is the business of ``rayscale.models.systems``. No torch here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from rayscale import strictjson
from rayscale.errors import ConfigError, quantity

# Means of the DIV2K training images, as in the official code, as a fraction of the value range.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)

# A specification may come from a file of unknown origin: bound what it can make a process allocate.
_LIMITS = {"channels": 1024, "filters": 4096, "blocks": 1024}


def default_mean(channels: int) -> tuple[float, ...]:
    """DIV2K's mean for three channels, the middle of the range for any other number."""
    return DIV2K_MEAN if channels == len(DIV2K_MEAN) else (0.5,) * channels


SPEC_KEY = "rayscale.spec"
"""Where a weights file and a registered version keep the specification."""

NEAREST = "nearest"

INTERPOLATIONS = ("bilinear", "bicubic", NEAREST)
"""The systems without weights: always at hand, never in the model registry."""


@dataclass(frozen=True)
class ModelSpec:
    """A network: ``rayscale.models.systems.build`` makes it, with fresh weights.

    Attributes:
        system: name in the registry, for example ``edsr-baseline``.
        scales: the integer scales it serves, increasing; one for EDSR, ``(2, 3, 4)`` for MDSR.
        channels: image channels, the same in and out.
        filters: feature maps of the trunk. blocks: residual blocks of the trunk.
        residual_scaling: factor on each residual branch (EDSR paper, section 3.3).
        value_range: white of the input and output, 255 in the official code.
        mean: per-channel mean that is subtracted, as a fraction of ``value_range``; left empty it becomes
            ``default_mean(channels)``.

    Raises:
        ConfigError: a value out of its limits; the message names the value and the limit.
    """

    system: str
    scales: tuple[int, ...]
    channels: int = 3
    filters: int = 64
    blocks: int = 16
    residual_scaling: float = 1.0
    value_range: float = 255.0
    mean: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.system, str) or not self.system:
            raise ConfigError(f"system must be the name of a model, not {self.system!r}")
        self._normalise_scales()
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            least = 1 if name == "channels" else 0
            if not _is_int(value) or not least <= value <= limit:
                raise ConfigError(
                    f"{name} must be an integer from {least} to {limit}, not {value!r}"
                )
        for name in ("residual_scaling", "value_range"):
            value = getattr(self, name)
            if not _is_number(value) or value <= 0:
                raise ConfigError(f"{name} must be a positive finite number, not {value!r}")
            object.__setattr__(self, name, float(value))
        self._normalise_mean()

    def _normalise_scales(self) -> None:
        scales = self.scales
        if (
            not isinstance(scales, Sequence)
            or isinstance(scales, str)
            or not scales
            or not all(_is_int(scale) and scale >= 1 for scale in scales)
            or list(scales) != sorted(set(scales))
        ):
            raise ConfigError(f"scales must be increasing positive integers, not {scales!r}")
        object.__setattr__(self, "scales", tuple(scales))

    def _normalise_mean(self) -> None:
        mean = self.mean
        if not isinstance(mean, Sequence) or not all(_is_number(value) for value in mean):
            raise ConfigError(f"mean must be finite numbers, one per channel, not {mean!r}")
        mean = tuple(float(value) for value in mean) or default_mean(self.channels)
        if len(mean) != self.channels:
            raise ConfigError(
                f"mean has {quantity(len(mean), 'value')} for {quantity(self.channels, 'channel')}; give one per channel, "
                "as a fraction of value_range"
            )
        object.__setattr__(self, "mean", mean)

    def to_json(self) -> str:
        """The specification as one line of JSON with sorted keys; the same text for equal values."""
        return strictjson.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """The inverse of ``to_json``; ConfigError for damaged text or a key this version does not know."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"the model specification is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError("the model specification is not a JSON object")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(
                f"the model specification has unknown keys {', '.join(unknown)}; "
                f"this version knows {', '.join(sorted(known))}"
            )
        if missing := sorted({"system", "scales"} - set(values)):
            raise ConfigError(f"the model specification lacks {', '.join(missing)}")
        return cls(**values)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
