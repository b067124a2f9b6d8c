"""A network run strip by strip: rows of the image go in at the top, rows of the larger image come out.

Tiles compute the halo of their neighbours again, at 256 pixels half of all work for EDSR-baseline. Here each row of each
layer is computed once: a convolution keeps the last rows of its input until those below arrive, a skip keeps
the rows that its body has not made yet. What is kept are rows only, so memory does not depend on the image's
height. Rows beyond the top and the bottom are what the layer's own padding says, so the result is that of the whole image.

What the network is made of it says itself, by ``SuperResolver.path``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayscale.inference.folding import Folded, keeps_size
from rayscale.models.path import CUBIC_REACH, Interpolate, Pointwise, Skip
from rayscale.resampling import enlarged, exact_scale

_POINTWISE = (Pointwise, nn.ReLU, nn.PReLU, nn.BatchNorm2d, nn.PixelShuffle)

Step = Callable[[Tensor, bool], Tensor | None]
"""What one stage does with the next rows ``(N, C, rows, W)`` of its input, and whether these are the last: the rows of its
output that are now known, None while there are none."""


class Strips:
    """The run of a path over one image, in evaluation mode.

    Args:
        path: stages of ``rayscale.models.path``, convolutions that keep the size, activations, pixel shuffles, folded
            layers (``rayscale.inference.folding``).
        most: pixels of a strip, at every stage and on its own grid; what an enlargement makes larger is cut again, and so
            are the rows that were held back and come together at the bottom.
        watch: called, unless None, before each stage of a strip; what it raises ends the run.

    Under autocast the weights of the convolutions are cast once, not at every strip. Raises TypeError for a stage whose
    reach is not known: better no result than a wrong one.
    """

    def __init__(self, path: nn.Module, most: int, watch: Callable[[], None] | None = None) -> None:
        self._steps = list(_steps(path))
        self._most = most
        self._watch = watch

    def push(self, rows: Tensor, last: bool) -> Iterator[Tensor]:
        """The next rows ``(N, C, rows, W)`` of the image, to the rows of the output that are now known, in order."""
        # What is deepest goes on first, so that one strip at a time is between the stages.
        waiting = [(0, rows, last)]
        while waiting:
            index, rows, last = waiting.pop()
            if index == len(self._steps):
                yield rows
                continue
            if self._watch is not None:
                self._watch()
            made = self._steps[index](rows, last)
            if made is not None:
                pieces = self._cut(made)
                ends = [False] * (len(pieces) - 1) + [last]
                waiting += reversed(
                    [(index + 1, piece, end) for piece, end in zip(pieces, ends, strict=True)]
                )

    def _cut(self, rows: Tensor) -> tuple[Tensor, ...]:
        height, width = rows.shape[-2:]
        count = min(-(-height * width // self._most), height)
        return torch.tensor_split(rows, count, dim=2) if count > 1 else (rows,)


def _steps(stage: nn.Module) -> Iterator[Step]:
    if isinstance(stage, nn.Sequential):
        stages = list(stage)
        for before, inner, after in zip([None, *stages], stages, [*stages[1:], None], strict=False):
            if isinstance(inner, nn.Conv2d):
                yield _Convolution(inner, relu=isinstance(before, nn.ReLU))
            elif not (isinstance(inner, nn.ReLU) and isinstance(after, nn.Conv2d)):
                yield from _steps(inner)
    elif isinstance(stage, Skip):
        delay = _Delay(stage)
        yield delay.fork
        yield from _steps(stage.body)
        yield delay.join
    elif isinstance(stage, nn.Conv2d):
        yield _Convolution(stage)
    elif isinstance(stage, Folded):
        yield _Linear(stage)
    elif isinstance(stage, Interpolate):
        yield _Interpolation(stage)
    elif isinstance(stage, _POINTWISE):
        yield lambda rows, last: stage(rows)
    else:
        raise TypeError(f"{type(stage).__name__} is not a stage that strips know")


class _Convolution:
    """A convolution that keeps the rows which those below still need; ``relu`` says that one comes before it."""

    def __init__(self, layer: nn.Conv2d, *, relu: bool = False) -> None:
        if not keeps_size(layer):
            raise TypeError(f"strips take convolutions that keep the size, not {layer}")
        if layer.padding_mode not in ("zeros", "replicate"):
            raise TypeError(f"strips know no padding with {layer.padding_mode}")
        self._above, self._beside = (side // 2 for side in layer.kernel_size)
        self._relu = relu
        self._repeat = layer.padding_mode == "replicate"
        self._weight = _narrow(layer.weight)
        self._bias = None if layer.bias is None else _narrow(layer.bias)
        self._kept: Tensor | None = None

    def __call__(self, rows: Tensor, last: bool) -> Tensor | None:
        above, beside = self._above, self._beside
        # The image has rows of zeros, or repeated ones, beyond its first and last.
        top = above if self._kept is None else self._kept.shape[2]
        count, _, height, width = rows.shape
        window = torch.empty(
            (count, rows.shape[1], top + height + above * last, width),
            dtype=self._weight.dtype,
            device=rows.device,
            memory_format=torch.channels_last,
        )
        inner = window[:, :, top : top + height]
        if self._relu:
            torch.clamp_min(rows, 0, out=inner)
        else:
            inner.copy_(rows)
        window[:, :, :top] = self._beyond(inner[:, :, :1]) if self._kept is None else self._kept
        if last:
            window[:, :, top + height :] = self._beyond(inner[:, :, -1:])
        if above:
            ready = window.shape[2] - 2 * above
            # A copy, as a view would keep the whole window.
            self._kept = window[:, :, max(ready, 0) :].clone()
            if ready <= 0:
                return None
        if self._repeat and beside:
            window, beside = functional.pad(window, (beside, beside, 0, 0), mode="replicate"), 0
        return functional.conv2d(window, self._weight, self._bias, padding=(0, beside))

    def _beyond(self, edge: Tensor) -> Tensor | float:
        """What is beyond the image's first or last row ``edge``."""
        return edge if self._repeat else 0.0


class _Linear:
    """Folded layers on windows of rows, which begin as far above the next row of the output as that sees."""

    def __init__(self, stage: Folded) -> None:
        self._stage = stage
        self._kept: list[Tensor] = []
        self._done = 0  # of the rows kept, those whose output is made already
        self._top = True  # whether the rows kept begin with the image

    def __call__(self, rows: Tensor, last: bool) -> Tensor | None:
        narrow = rows.to(_narrow(self._stage.bias).dtype)
        window = torch.cat([*self._kept, narrow], dim=2)
        height, done, top, reach = window.shape[2], self._done, self._top, self._stage.reach
        stop = height if last else height - reach
        if stop <= done:
            self._kept = [window]
            return None
        first = max(stop - reach, 0)
        self._kept, self._done = [window[:, :, first:].clone()], stop - first
        self._top = top and first == 0
        return self._stage.rows(window, done, stop, top=top, bottom=last)


class _Delay:
    """The rows that a skip holds back until its body has made theirs."""

    def __init__(self, stage: Skip) -> None:
        self._stage = stage
        self._kept: deque[Tensor] = deque()

    def fork(self, rows: Tensor, last: bool) -> Tensor:
        self._kept.append(rows)
        return rows

    def join(self, rows: Tensor, last: bool) -> Tensor:
        pieces = list(self._take(rows.shape[2]))
        alike = all((x.shape[1], x.dtype) == (rows.shape[1], rows.dtype) for x in pieces)
        if not alike:
            return self._stage.join(torch.cat(pieces, dim=2), rows)
        # Into the rows of the body, which nobody else has: so nothing needs to be put together.
        parts = torch.split(rows, [x.shape[2] for x in pieces], dim=2)
        for x, y in zip(pieces, parts, strict=True):
            self._stage.join(x, y, out=y)
        return rows

    def _take(self, count: int) -> Iterator[Tensor]:
        """The next ``count`` rows, piece by piece."""
        while count:
            piece = self._kept.popleft()
            yield piece[:, :, :count]
            if piece.shape[2] > count:
                # A copy, as a view would keep the whole piece.
                self._kept.appendleft(piece[:, :, count:].clone())
            count -= min(count, piece.shape[2])


class _Interpolation:
    """Bicubic enlargement of windows of rows that begin and, but for the last, end at multiples of the scale's q."""

    def __init__(self, stage: Interpolate) -> None:
        self._stage = stage
        self._grain = exact_scale(stage.scale).denominator
        self._kept: list[Tensor] = []
        self._done = 0  # of the rows kept, those that are enlarged already: the next ones see them

    def __call__(self, rows: Tensor, last: bool) -> Tensor | None:
        window = torch.cat([*self._kept, rows], dim=2)
        height, done = window.shape[2], self._done
        stop = height if last else (height - CUBIC_REACH) // self._grain * self._grain
        if stop <= done:
            self._kept = [window]
            return None
        first = max(stop - CUBIC_REACH, 0) // self._grain * self._grain
        self._kept, self._done = [window[:, :, first:].clone()], stop - first
        scale = self._stage.scale
        large: Tensor = self._stage(window)
        return large[:, :, enlarged(done, scale) : enlarged(stop, scale)]


def _narrow(weight: Tensor) -> Tensor:
    """``weight`` in the type that autocast computes convolutions in."""
    kind = weight.device.type
    if torch.is_autocast_enabled(kind):
        return weight.to(torch.get_autocast_dtype(kind))
    return weight
