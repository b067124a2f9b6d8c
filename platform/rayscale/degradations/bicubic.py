"""MATLAB's bicubic (Keys 1981, a = -0.5, widened by the scale): the degradation of the benchmark sets."""

from __future__ import annotations

from typing import ClassVar

from rayscale.degradations.stage import Floats, Stage
from rayscale.resampling import shrink_floats


class Bicubic(Stage):
    """``imresize(x, 1 / scale)``. Alone it rounds between its two passes, as the stored benchmarks do."""

    name: ClassVar[str] = "bicubic"
    shrinks: ClassVar[bool] = True

    def shrink(self, x: Floats, scale: int) -> Floats:
        return shrink_floats(x, scale)

    def reach(self, scale: int) -> int:
        return 2
