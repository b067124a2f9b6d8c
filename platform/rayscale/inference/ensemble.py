"""Geometric self-ensemble, the "+" of EDSR+ and MDSR+ (Lim et al. 2017, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def self_ensemble(predict: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The mean of ``predict`` over the 8 flips and transpositions of ``x`` ``(N, C, H, W)``, each undone.

    Costs exactly eight forward passes. The result is equivariant to all eight transforms, whatever
    ``predict`` is.
    """
    total: Tensor | None = None
    for transpose in (False, True):
        for flip in ((), (-1,), (-2,), (-2, -1)):
            view = torch.flip(x, flip) if flip else x
            view = view.transpose(-2, -1) if transpose else view
            y = predict(view)
            y = y.transpose(-2, -1) if transpose else y
            y = torch.flip(y, flip) if flip else y
            total = y.clone() if total is None else total.add_(y)
    assert total is not None
    return total / 8
