"""A network applied to an image of any size, part by part, equal to the whole image at once.

Networks with a path run by strips (``rayscale.inference.strips``), in panels of columns that the image's height does not
limit; all others by tiles. Panels and tiles carry the exact halo of the network. A part that does not fit into memory is
cut into smaller ones, and so are all that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from rayscale.errors import OutOfMemoryError
from rayscale.inference.memory import is_out_of_memory
from rayscale.inference.strips import Strips
from rayscale.inference.tiles import Tile
from rayscale.models.network import SuperResolver
from rayscale.options import SMALLEST_TILE
from rayscale.resampling import enlarged, exact_scale

PANEL = 1024
"""Columns of a panel, halo not counted."""
_ROWS = 48
"""Rows of a strip as wide as a panel on a CPU, the fastest measured of 12 to 96; narrower strips have as many pixels."""
_ROWS_ELSEWHERE = 256
"""The same on other devices, so that the calls of a strip have more to do; a guess that no GPU has confirmed."""

Read = Callable[[slice, slice], Tensor]
"""Rows and columns of the image to their pixels ``(N, C, h, w)`` on the CPU."""
Write = Callable[[slice, slice, Tensor], None]
"""Takes the pixels ``(N, C, h, w)`` of some rows and columns of the larger image, on the device."""


@dataclass(frozen=True)
class Parts:
    """How a network is applied.

    Attributes:
        model: in evaluation mode, on ``device``.
        path: of the model for images of these channels, folded; None to run it by tiles.
        dtype: of the convolutions, by autocast where it is not float32.
        side: of a tile, or columns of a panel, in source pixels, halo not counted; None is the default of each.
        watch: called, unless None, before each tile and each stage of a strip; what it raises ends the work.
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

        Raises OutOfMemoryError when not even parts of ``SMALLEST_TILE`` fit into memory.
        """
        height, width = x.shape[-2:]
        out = torch.empty(*x.shape[:2], enlarged(height, self.scale), enlarged(width, self.scale))

        def write(rows: slice, columns: slice, y: Tensor) -> None:
            out[..., rows, columns] = y

        self.run((height, width), lambda rows, columns: x[..., rows, columns], write)
        return out

    def run(self, size: tuple[int, int], read: Read, write: Write) -> None:
        """Enlarge what ``read`` gives of an image of ``size`` (H, W), and give it to ``write``, part by part.

        So neither image needs to be in memory as floats. A part may be written again, after a full memory.

        Raises OutOfMemoryError as :meth:`enlarge`.
        """
        halo, grain = self.model.halo(self.scale), exact_scale(self.scale).denominator
        side = self.side or (self.model.tile if self.path is None else PANEL)
        waiting = [Tile.whole(*size)]
        while waiting:
            part = waiting.pop()
            pieces = part.cut(side, halo, grain, size, rows=self.path is None)
            if len(pieces) > 1:
                waiting += reversed(pieces)
            elif not self._fits(read, write, part, side):
                if side // 2 < SMALLEST_TILE:
                    raise OutOfMemoryError(
                        f"{self.model.spec.system} x{self.scale:g} does not fit into the memory of {self.device} even in "
                        f"parts of {side} pixels; free some memory, use a smaller model, or another device"
                    )
                side //= 2
                waiting.append(part)

    def _fits(self, read: Read, write: Write, part: Tile, side: int) -> bool:
        """Write the pixels of ``part``; False when memory was not enough."""
        try:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                if self.path is None:
                    self._tile(read, write, part)
                else:
                    self._panel(self.path, read, write, part, side)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        # Only here is the error gone, and with it the frames that hold what was allocated.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _tile(self, read: Read, write: Write, tile: Tile) -> None:
        if self.watch is not None:
            self.watch()
        rows, columns = tile.rows, tile.columns
        part = self._take(read(slice(rows.low, rows.high), slice(columns.low, columns.high)))
        y = self.model(part, self.scale)
        write(
            self._larger(rows.start, rows.stop),
            self._larger(columns.start, columns.stop),
            y[..., self._larger(*rows.core), self._larger(*columns.core)],
        )

    def _panel(self, path: nn.Module, read: Read, write: Write, panel: Tile, side: int) -> None:
        columns = panel.columns
        seen, whole = (
            slice(columns.low, columns.high),
            self._larger(columns.start, columns.stop),
        )
        core = self._larger(*columns.core)
        pixels = side * (_ROWS if self.device.type == "cpu" else _ROWS_ELSEWHERE)
        strips = Strips(path, pixels, self.watch)
        top = 0
        for rows, last in _strips(panel.shape, pixels):
            for y in strips.push(self._take(read(rows, seen)), last):
                bottom = top + y.shape[2]
                write(slice(top, bottom), whole, y[..., core])
                top = bottom

    def _take(self, x: Tensor) -> Tensor:
        """The next strip or tile, on the device."""
        return x.to(self.device).contiguous(memory_format=torch.channels_last)

    def _larger(self, start: int, stop: int) -> slice:
        """The output pixels of the source pixels from ``start`` (a multiple of the grain) up to ``stop``."""
        return slice(enlarged(start, self.scale), enlarged(stop, self.scale))


def _strips(size: tuple[int, int], pixels: int) -> Iterator[tuple[slice, bool]]:
    """The rows of strips of nearly equal height and at most ``pixels`` or one row, and whether they are the last."""
    height, width = size
    count = min(-(-height * width // pixels), height)
    edges = [height * index // count for index in range(count + 1)]
    for start, stop in pairwise(edges):
        yield slice(start, stop), stop == height
