"""EDSR (Lim et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution")."""

from __future__ import annotations

from torch import Tensor, nn

from rayscale.errors import ConfigError
from rayscale.models.network import (
    MeanShift,
    ResBlock,
    SuperResolver,
    Upsampler,
    conv,
    reach,
    require_trunk,
)
from rayscale.models.spec import ModelSpec


class EDSR(SuperResolver):
    """One trunk of residual blocks at LR size and an upsampler at the end, for one scale.

    Baseline: 16 blocks of 64 filters. Paper: 32 blocks of 256 filters, residual scaling 0.1.
    """

    scale_bound = ("tail.",)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        require_trunk(spec)
        if len(spec.scales) != 1:
            raise ConfigError(f"{spec.system} serves one scale, not {list(spec.scales)}")
        filters = spec.filters
        self.sub_mean = MeanShift(spec.value_range, spec.mean, sign=-1)
        self.head = nn.Sequential(conv(spec.channels, filters, 3))
        self.body = nn.Sequential(
            *(ResBlock(filters, 3, spec.residual_scaling) for _ in range(spec.blocks)),
            conv(filters, filters, 3),
        )
        self.tail = nn.Sequential(
            Upsampler(spec.scales[0], filters), conv(filters, spec.channels, 3)
        )
        self.add_mean = MeanShift(spec.value_range, spec.mean, sign=+1)

    def enlarge(self, x: Tensor, scale: float) -> Tensor:
        head = self.head(self.sub_mean(x))
        enlarged: Tensor = self.add_mean(self.tail(self.body(head) + head))
        return enlarged

    def halo(self, scale: float) -> int:
        self.resolve_scale(scale)
        return reach((self.head, self.body, self.tail))
