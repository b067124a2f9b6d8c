"""Geometric self-ensemble, the "+" of EDSR+ and MDSR+ (Lim et al. 2017, section 3.4), and how far its members differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from rayscale.resampling import exact_scale


def self_ensemble(predict: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The mean of ``predict`` over the 8 flips and transpositions of ``x`` ``(N, C, H, W)``, each undone.

    Costs exactly eight forward passes. The result is equivariant to all eight transforms, whatever
    ``predict`` is.
    """
    outputs = _outputs(predict, x)
    total = next(outputs).clone()
    for y in outputs:
        total += y
    return total / 8


def ensemble_moments(predict: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of the eight, so divided by 8) of the outputs that ``self_ensemble`` averages.

    In one pass over the eight (Welford 1962), with no more than two of them in memory.
    """
    outputs = _outputs(predict, x)
    mean = next(outputs).clone()
    squares = torch.zeros_like(mean)
    for count, y in enumerate(outputs, 2):
        apart = y - mean
        mean += apart / count
        squares += apart * (y - mean)
    return mean, (squares / 8).sqrt()


def pad(x: Tensor, scale: float) -> Tensor:
    """``x (N, C, H, W)`` as the ensemble needs it: its flips must leave it on its own output grid.

    At a scale p/q the sides grow to multiples of q by repeating the last row and column.
    """
    height, width = x.shape[-2:]
    grain = exact_scale(scale).denominator
    return functional.pad(x, (0, -width % grain, 0, -height % grain), mode="replicate")


def _outputs(predict: Callable[[Tensor], Tensor], x: Tensor) -> Iterator[Tensor]:
    """``predict`` of each of the eight transforms, turned back."""
    for transpose in (False, True):
        for flip in ((), (-1,), (-2,), (-2, -1)):
            view = torch.flip(x, flip) if flip else x
            view = view.transpose(-2, -1) if transpose else view
            y = predict(view)
            y = y.transpose(-2, -1) if transpose else y
            yield torch.flip(y, flip) if flip else y
