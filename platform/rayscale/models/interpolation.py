"""Bilinear and bicubic interpolation as models: the baselines every learned system is compared with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rayscale.models.network import SuperResolver
from rayscale.resampling import resize


class _Interpolation(SuperResolver):
    """MATLAB's ``imresize``; no parameters, any range of values."""

    any_channels = True
    method: Literal["bicubic", "bilinear"]

    def enlarge(self, x: Tensor, scale: int) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return resize(wide, (x.shape[2] * scale, x.shape[3] * scale), self.method)

    def halo(self, scale: int) -> int:
        self.resolve_scale(scale)
        return 4  # bicubic reaches 2 LR pixels, bilinear 1; a margin costs nothing here


class Bicubic(_Interpolation):
    """Cubic convolution (Keys 1981, a = -0.5)."""

    method = "bicubic"


class Bilinear(_Interpolation):
    """Linear interpolation."""

    method = "bilinear"
