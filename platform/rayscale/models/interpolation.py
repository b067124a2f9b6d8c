"""Bilinear and bicubic interpolation as models: the baselines every learned system is compared with. And nearest neighbour,
for labels."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rayscale.models.network import SuperResolver
from rayscale.models.system import system
from rayscale.resampling import nearest_places, upsample

_interpolation = partial(
    system, defaults={"filters": 0, "blocks": 0}, options=("value_range",), multiscale=True
)


class _Interpolation(SuperResolver):
    """MATLAB's ``imresize``; no parameters, any range of values."""

    keeps_means = True
    linear = True

    any_channels = True
    scale_range = (1.0, 16.0)
    method: Literal["bicubic", "bilinear"]

    def enlarge(self, x: Tensor, scale: float) -> Tensor:
        return upsample(x.to(torch.promote_types(x.dtype, torch.float32)), scale, self.method)

    def halo(self, scale: float) -> int:
        self.resolve_scale(scale)
        return 4  # bicubic reaches 2 LR pixels, bilinear 1; a margin costs nothing here


@_interpolation("nearest", "nearest neighbour: pixels repeated, for class maps and bit fields")
class Nearest(_Interpolation):
    """Every pixel repeated; the ``Upscaler`` repeats the stored values themselves, whatever their type."""

    def enlarge(self, x: Tensor, scale: float) -> Tensor:
        for axis in (x.ndim - 2, x.ndim - 1):
            places = torch.from_numpy(nearest_places(x.shape[axis], scale)).to(x.device)
            x = x.index_select(axis, places)
        return x.to(torch.promote_types(x.dtype, torch.float32))


@_interpolation("bilinear", "linear interpolation")
class Bilinear(_Interpolation):
    """Linear interpolation."""

    method = "bilinear"


@_interpolation("bicubic", "cubic interpolation as in MATLAB, the usual baseline")
class Bicubic(_Interpolation):
    """Cubic convolution (Keys 1981, a = -0.5)."""

    method = "bicubic"
