"""What a stage of a degradation is: what it does to the HR image, how it makes it smaller, what it does to the LR image."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Floats = npt.NDArray[np.float64]
Random = np.random.Generator


class Limits(NamedTuple):
    """Black and white of the type of an image: the ends of integers, 0 and 1 for floats."""

    black: float
    white: float

    @classmethod
    def of(cls, dtype: np.dtype[Any]) -> Limits:
        """Those of a type."""
        if dtype.kind == "f":
            return cls(0.0, 1.0)
        info = np.iinfo(dtype)
        return cls(float(info.min), float(info.max))

    @property
    def range(self) -> float:
        return self.white - self.black


class Stage(BaseModel):
    """One stage; a subclass overrides what it does. Images are float64 ``(H, W, C)`` in stored units.

    Attributes:
        name: in texts. shrinks: whether ``shrink`` is its own; of a chain at most one does.
        random: whether it draws. whole: whether each pixel depends on all, so that windows are not possible.
        ranges: fields that are a least and a most, written ``a..b``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    shrinks: ClassVar[bool] = False
    random: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    ranges: ClassVar[tuple[str, ...]] = ()

    def before(self, x: Floats, random: Random | None) -> Floats:
        """The HR image as it reaches the sampling."""
        return x

    def shrink(self, x: Floats, scale: int) -> Floats:
        """The image at ``1 / scale`` of its sides, which are multiples of it; pixels are areas."""
        raise NotImplementedError

    def after(self, x: Floats, random: Random | None, limits: Limits) -> Floats:
        """The LR image after what happens to it later."""
        return x

    def reach(self, scale: int) -> int:
        """LR pixels around a place on which its value depends."""
        return 0

    def check(self, channels: int, scale: int) -> None:
        """Raise ConfigError where an image of so many channels cannot be degraded at a scale."""
