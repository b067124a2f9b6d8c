"""A network applied to an image of any size, part by part, equal to the whole image at once.

Networks with a path run by strips (``rayscale.inference.strips``), in panels of columns that the image's height does not
limit; all others by tiles. Panels and tiles carry the exact halo of the network. A part that does not fit into memory is
cut into smaller ones, and so are all that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rayscale.errors import OutOfMemoryError
from rayscale.inference.memory import is_out_of_memory
from rayscale.inference.strips import Strips
from rayscale.inference.tiles import Tile
from rayscale.models.network import SuperResolver
from rayscale.resampling import enlarged, exact_scale

SMALLEST = 16
"""Side of a part in source pixels that is not halved any more."""
PANEL = 1024
"""Columns of a panel, halo not counted."""
TILE = 192
"""Side of a tile, halo not counted."""
_ROWS = 48
"""Rows of a strip as wide as a panel on a CPU, the fastest measured of 12 to 96; narrower strips have as many pixels."""
_ROWS_ELSEWHERE = 256
"""The same on other devices, so that the calls of a strip have more to do; a guess that no GPU has confirmed."""


@dataclass(frozen=True)
class Parts:
    """How a network is applied.

    Attributes:
        model: in evaluation mode, on ``device``.
        path: of the model for images of these channels, folded; None to run it by tiles.
        dtype: of the convolutions, by autocast where it is not float32.
        side: of a tile, or columns of a panel, in source pixels, halo not counted; None is the default of each.
        watch: called, unless None, before each strip or tile; what it raises ends the work.
    """

    model: SuperResolver
    path: nn.Module | None
    scale: float
    device: torch.device
    dtype: torch.dtype
    side: int | None
    watch: Callable[[], None] | None

    def enlarge(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` on the CPU to float32 ``(N, C, sH, sW)`` on the CPU.

        Raises OutOfMemoryError when not even parts of ``SMALLEST`` fit into memory.
        """
        height, width = x.shape[-2:]
        halo, grain = self.model.halo(self.scale), exact_scale(self.scale).denominator
        side = self.side or (TILE if self.path is None else PANEL)
        out = torch.empty(*x.shape[:2], enlarged(height, self.scale), enlarged(width, self.scale))
        waiting = [Tile.whole(height, width)]
        while waiting:
            part = waiting.pop()
            pieces = part.cut(side, halo, grain, (height, width), rows=self.path is None)
            if len(pieces) > 1:
                waiting += reversed(pieces)
            elif not self._fits(x, out, part, side):
                if side // 2 < SMALLEST:
                    raise OutOfMemoryError(
                        f"{self.model.spec.system} x{self.scale:g} does not fit into the memory of {self.device} even in "
                        f"parts of {side} pixels; free some memory, use a smaller model, or another device"
                    )
                side //= 2
                waiting.append(part)
        return out

    def _fits(self, x: Tensor, out: Tensor, part: Tile, side: int) -> bool:
        """Write the pixels of ``part`` to ``out``; False when memory was not enough."""
        try:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                if self.path is None:
                    self._tile(x, out, part)
                else:
                    self._panel(self.path, x, out, part, side)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        # Only here is the error gone, and with it the frames that hold what was allocated.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _tile(self, x: Tensor, out: Tensor, tile: Tile) -> None:
        rows, columns = tile.rows, tile.columns
        part = self._taken(x[..., rows.low : rows.high, columns.low : columns.high])
        y = self.model(part, self.scale)
        whole = (
            ...,
            self._larger(rows.start, rows.stop),
            self._larger(columns.start, columns.stop),
        )
        core = (..., self._larger(*rows.core), self._larger(*columns.core))
        out[whole] = y[core]

    def _panel(self, path: nn.Module, x: Tensor, out: Tensor, panel: Tile, side: int) -> None:
        columns = panel.columns
        whole, core = self._larger(columns.start, columns.stop), self._larger(*columns.core)
        pixels = side * (_ROWS if self.device.type == "cpu" else _ROWS_ELSEWHERE)
        strips = Strips(path, pixels)
        top = 0
        for strip, last in _strips(x[..., columns.low : columns.high], pixels):
            for y in strips.push(self._taken(strip), last):
                bottom = top + y.shape[2]
                out[..., top:bottom, whole] = y[..., core]
                top = bottom

    def _taken(self, x: Tensor) -> Tensor:
        """The next strip or tile, on the device."""
        if self.watch is not None:
            self.watch()
        return x.to(self.device).contiguous(memory_format=torch.channels_last)

    def _larger(self, start: int, stop: int) -> slice:
        """The output pixels of the source pixels from ``start`` (a multiple of the grain) up to ``stop``."""
        return slice(enlarged(start, self.scale), enlarged(stop, self.scale))


def _strips(x: Tensor, pixels: int) -> Iterator[tuple[Tensor, bool]]:
    """``x`` in strips of nearly equal height and at most ``pixels`` or one row, and whether it is the last."""
    height, width = x.shape[-2:]
    count = min(-(-height * width // pixels), height)
    for index, strip in enumerate(torch.tensor_split(x, count, dim=2), start=1):
        yield strip, index == count
