"""Local means are kept: a network may sharpen a scene, but not brighten it.

What a network adds around edges does not cancel to the last digit, so that the mean of a scene drifts by some tenths of a per
cent. Sums over an area are what measurements are used for. So the difference between the local mean of the source and
that of the output, over some pixels around each, is added back: too smooth to touch an edge.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rayscale.resampling import exact_scale

_RADIUS = 4  # source pixels of a box, which is applied twice


def reach(scale: float) -> int:
    """Source pixels around a pixel that its correction depends on."""
    q = exact_scale(scale).denominator
    return (2 * _blocks(q) + 1) * q


def keep_local_means(y: Tensor, x: Tensor, scale: float) -> Tensor:
    """``y (N, C, floor(sH), floor(sW))`` with the local means of ``x (N, C, H, W)``; in place.

    Over the whole image the sums agree as well, up to a part of a period at the ends where a side is not a multiple of it.
    """
    p, q = exact_scale(scale).as_integer_ratio()
    height, width = x.shape[2] // q, x.shape[3] // q
    if not height or not width:  # too small for a single period of the two grids
        return y
    error = functional.avg_pool2d(x[..., : height * q, : width * q], q)
    error -= functional.avg_pool2d(y[..., : height * p, : width * p], p)
    for _ in range(2):
        error = _box(error, min(_blocks(q), height, width))
    rows = (torch.arange(y.shape[2]) // p).clamp(max=height - 1)
    columns = (torch.arange(y.shape[3]) // p).clamp(max=width - 1)
    for row in range(height):  # not all at once: the output is the largest thing in memory
        here = slice(row * p, (row + 1) * p if row < height - 1 else y.shape[2])
        y[..., here, :] += error[..., rows[here], :][..., columns]
    return y


def _blocks(q: int) -> int:
    """The radius of the box in periods of ``q`` source pixels."""
    return max(1, _RADIUS // q)


def _box(values: Tensor, radius: int) -> Tensor:
    """The mean over ``2 radius + 1`` to each side; mirrored at the borders, so that the sum stays."""
    side = 2 * radius + 1
    for axis in (2, 3):
        mirrored = torch.cat(
            [
                values.narrow(axis, 0, radius).flip(axis),
                values,
                values.narrow(axis, values.shape[axis] - radius, radius).flip(axis),
            ],
            axis,
        )
        kernel = (side, 1) if axis == 2 else (1, side)
        values = functional.avg_pool2d(mirrored, kernel, stride=1)
    return values
