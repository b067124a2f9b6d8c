"""How a dataset is cut: the options of ``prepare``, checked before anything is read."""

from __future__ import annotations

import math
from fnmatch import fnmatch
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from rayscale.degradations import BICUBIC, Degradation
from rayscale.errors import ConfigError
from rayscale.options import Handling


class PrepareConfig(BaseModel):
    """Options of ``prepare``; all sizes are in HR pixels. Two equal configurations cut equal datasets.

    The default step leaves 192 pixels shared by neighbouring sub-images: every HR patch of 192 pixels (LR 48 at
    x4, the largest of the paper's recipe) lies whole in one of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scales: tuple[int, ...] = (2, 3, 4)
    """Scales for which LR images are stored beside the HR ones; unless given, pairs have those of their LR images."""
    size: int = 480
    """Side of a sub-image; a multiple of every scale. Smaller images are kept whole."""
    step: int = 288
    """Distance of neighbouring sub-images; a multiple of every scale, at most ``size``."""
    minimum: int = 96
    """Images whose smaller side (cropped to a multiple of every scale) is below this are skipped."""
    images_per_shard: int = 32
    """Source images in one shard at most (fewer where their files are large), which is the unit of work and of the local cache."""
    shard_bytes: int = 1 << 30
    """Bytes of HR pixels after which a further shard begins, also within a scene."""
    channels: int | None = None
    """Channels that every image must have; None takes those of most images."""
    bits: int | None = None
    """8 or 16, which every image must have; None takes those of most images."""
    bands: tuple[int, ...] = ()
    """Bands of every image, numbered from 1, in this order; all of them when empty."""
    levels: tuple[float, float] | None = None
    """Stored values that are black and white in every file, as ``rayscale.imaging.Handling`` has them; None takes those
    of each file. Pictures of 8 bits are taken as they are."""
    exclude: tuple[str, ...] = ()
    """Images whose key matches one of these patterns (``*``, ``?``, ``[...]``) are held out."""
    lr: str = "auto"
    """Where LR images come from: ``auto`` takes those of the source if it has pairs (``rayscale.pairs``), ``made`` makes
    them whatever there is, anything else is their folder or ``s3://`` prefix."""
    degradation: Degradation = BICUBIC
    """How LR images are made of HR images. One that draws is applied while training, to each patch anew, and only HR images
    are stored."""
    registration: Literal["check", "trust"] = "check"
    """Whether pairs are compared, or taken although HR and LR differ, as those of two sensors may."""

    @property
    def handling(self) -> Handling:
        """How files are read; they may have bands of labels that are not taken."""
        return Handling(levels=self.levels, labels="nearest")

    @classmethod
    def create(cls, **options: Any) -> PrepareConfig:
        """A configuration from untyped options (a command line, a file); errors are ``ConfigError``."""
        try:
            return cls(**options)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "configuration"
            raise ConfigError(f"{name}: {first['msg']} (got {first.get('input')!r})") from error

    @property
    def stored_scales(self) -> tuple[int, ...]:
        """The scales that have columns in a shard, 1 being HR."""
        return (1,) if self.degradation.is_random else (1, *self.scales)

    @property
    def grain(self) -> int:
        """The least common multiple of the scales: HR offsets and sides are multiples of it."""
        return math.lcm(*self.scales)

    def excludes(self, key: str) -> bool:
        """Whether the image of this key is held out."""
        return any(fnmatch(key, pattern) for pattern in self.exclude)

    @field_validator("scales")
    @classmethod
    def _sort(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(scales)))

    def model_post_init(self, context: object) -> None:
        if not self.scales or self.scales[0] < 2:
            raise ConfigError(
                f"scales {self.scales} are not possible; give integers from 2, as 2 3 4"
            )
        for name in ("size", "step"):
            value, grain = getattr(self, name), self.grain
            if value < 1 or value % grain:
                below, above = value // grain * grain, (value // grain + 1) * grain
                raise ConfigError(
                    f"{name} {value} is not a multiple of {grain}, which the scales {self.scales} need; "
                    f"take {f'{below} or ' if below > 0 else ''}{above}"
                )
        if self.step > self.size:
            raise ConfigError(
                f"step {self.step} is larger than size {self.size} and would leave gaps; take at most {self.size}"
            )
        for name in ("minimum", "images_per_shard", "shard_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} {getattr(self, name)} is not possible; it must be at least 1"
                )
        if self.channels is not None and self.channels < 1:
            raise ConfigError(f"channels {self.channels} are not possible; 1 is grey, 3 is RGB")
        if any(band < 1 for band in self.bands):
            raise ConfigError(f"bands {self.bands} are not possible; they are numbered from 1")
        if self.bits not in (None, 8, 16):
            raise ConfigError(f"bits {self.bits} are not possible; 8 and 16 are")
