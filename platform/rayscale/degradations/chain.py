"""A degradation: stages in a row, their text form, and what they make of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from pydantic_core import core_schema

from rayscale.degradations.bicubic import Bicubic
from rayscale.degradations.kspace import KSpace
from rayscale.degradations.mtf import Mtf
from rayscale.degradations.photograph import BlurNoiseJpeg
from rayscale.degradations.stage import Floats, Limits, Random, Stage
from rayscale.errors import ConfigError
from rayscale.resampling import bands, degrade, modcrop, round_like

Pixels = npt.NDArray[Any]

STAGES: dict[str, type[Stage]] = {
    stage.name: stage for stage in (Bicubic, Mtf, KSpace, BlurNoiseJpeg)
}
"""Every stage by its name; a new one is a line here."""

_PURPOSE = 4  # of the streams of one seed; 1 to 3 are those of ``rayscale.data.sampler``


def draw(seed: int, step: int, sample: int) -> Random:
    """The random numbers of one sample of a step: the same wherever and whenever it is made."""
    key = np.array([seed % (1 << 64), _PURPOSE], dtype=np.uint64)
    counter = np.array([0, step, sample, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@dataclass(frozen=True)
class Degradation:
    """How LR is made of HR: what each does before, one that
    shrinks (bicubic if none does), what each does after, in their order.

    The text form is ``NAME[:KEY=VALUE,...]`` joined by ``+``; lists are written ``a/b``, ranges ``a..b``. ``str`` gives
    every parameter, so that it means the same when defaults change.
    """

    stages: tuple[Stage, ...] = (Bicubic(),)

    def __post_init__(self) -> None:
        shrinking = [stage.name for stage in self.stages if stage.shrinks]
        if len(shrinking) > 1:
            raise ConfigError(
                f"{' and '.join(shrinking)} both make the image smaller; take one of them"
            )

    @classmethod
    def parse(cls, text: str) -> Degradation:
        """The degradation of a text; ConfigError names what cannot be, and what can."""
        return cls(tuple(_parse_stage(part.strip()) for part in text.split("+")))

    def __str__(self) -> str:
        return "+".join(map(_write_stage, self.stages))

    @property
    def is_bicubic(self) -> bool:
        """Whether it is that of the benchmark sets alone."""
        return self.stages == (Bicubic(),)

    @property
    def is_random(self) -> bool:
        """Whether two draws differ."""
        return any(stage.random for stage in self.stages)

    @property
    def needs_whole(self) -> bool:
        """Whether an image cannot be degraded in parts."""
        return any(stage.whole for stage in self.stages)

    def reach(self, scale: int) -> int:
        """LR pixels around a place on which its value depends, where ``needs_whole`` is false."""
        return sum(stage.reach(scale) for stage in {*self.stages, self._shrinker})

    def check(self, channels: int, scales: tuple[int, ...]) -> None:
        """Raise ConfigError where images of so many channels cannot be degraded at one of the scales."""
        for stage in self.stages:
            for scale in scales:
                stage.check(channels, scale)

    def apply(self, pixels: Pixels, scale: int, random: Random | None = None) -> Pixels:
        """The LR image ``(H // scale, W // scale, C)``, rounded and clipped to the type of ``pixels``.

        ``pixels (H, W, C)`` are integers from black to white of their type, or floats, where 0 to 1 is the range
        that noise and JPEG refer to. They are cropped to a multiple of the scale first. ``random`` is needed by
        degradations that draw.

        Raises ConfigError for a number of channels that a stage cannot serve.
        """
        if self.is_bicubic:
            return degrade(pixels, scale)
        if self.is_random and random is None:
            raise ConfigError(f"{self} draws random numbers; give a seed")
        hr = modcrop(pixels, scale)
        if self.needs_whole or self.is_random:
            return round_like(self._run(hr, scale, random), hr.dtype)
        height, width = (side // scale for side in hr.shape[:2])
        lr = np.empty((height, width, *hr.shape[2:]), hr.dtype)
        reach = self.reach(scale)
        for band in bands(height, hr[:scale].size):
            stop = min(band.stop, height)
            top, bottom = max(0, band.start - reach), min(height, stop + reach)
            part = self._run(hr[top * scale : bottom * scale], scale, None)
            lr[band.start : stop] = round_like(part[band.start - top : stop - top], hr.dtype)
        return lr

    @property
    def _shrinker(self) -> Stage:
        return next((stage for stage in self.stages if stage.shrinks), Bicubic())

    def _run(self, hr: Pixels, scale: int, random: Random | None) -> Floats:
        x: Floats = hr.astype(np.float64)
        for stage in self.stages:
            x = stage.before(x, random)
        x = self._shrinker.shrink(x, scale)
        for stage in self.stages:
            x = stage.after(x, random, Limits.of(hr.dtype))
        return x

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """A field of this type takes the value or its text, and is written as the text."""
        return core_schema.no_info_plain_validator_function(
            _validate, serialization=core_schema.to_string_ser_schema()
        )


BICUBIC = Degradation()
"""That of the benchmark sets, and of datasets and runs that name none."""


def _validate(value: Any) -> Degradation:
    if isinstance(value, Degradation):
        return value
    if not isinstance(value, str):
        raise ValueError(f"expected a text such as bicubic or mtf:gain=0.3, not {value!r}")
    try:
        return Degradation.parse(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _parse_stage(text: str) -> Stage:
    name, _, rest = text.partition(":")
    if name not in STAGES:
        raise ConfigError(
            f"degradation {name[:80]!r} is not known; there are {', '.join(STAGES)}, joined by +"
        )
    values: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, separator, value = pair.partition("=")
        if not separator:
            raise ConfigError(f"{name}: {pair[:80]!r} is not of the form KEY=VALUE")
        values[key.strip()] = _parse_value(value.strip())
    stage = STAGES[name]
    if unknown := [key for key in values if key not in stage.model_fields]:
        have = f"; it has {', '.join(stage.model_fields)}" if stage.model_fields else ""
        raise ConfigError(f"{name} has no parameter {unknown[0][:80]!r}{have}")
    for key in ("gain", "bands"):
        if isinstance(values.get(key), str):
            values[key] = (values[key],)
    try:
        return stage(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][:1])
        message = first["msg"].removeprefix("Value error, ")
        given = f" (given: {first['input']!r})" if place else ""
        raise ConfigError(f"{name}: {place}{': ' if place else ''}{message}{given}") from None


def _parse_value(text: str) -> Any:
    if text == "none":
        return None
    if ".." in text:
        return tuple(text.split("..", 1))
    return tuple(text.split("/")) if "/" in text else text


def _write_stage(stage: Stage) -> str:
    shown = [
        f"{key}={_write_value(value, '..' if key in stage.ranges else '/')}"
        for key, value in stage.model_dump().items()
        if value not in ("", ())
    ]
    return stage.name + (":" + ",".join(shown) if shown else "")


def _write_value(value: Any, separator: str = "/") -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return separator.join(map(_write_value, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)
