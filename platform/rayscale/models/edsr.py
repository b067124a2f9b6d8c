"""EDSR (Lim et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution")."""

from __future__ import annotations

from torch import nn

from rayscale.errors import ConfigError
from rayscale.models.network import (
    MeanShift,
    ResBlock,
    SuperResolver,
    Upsampler,
    conv,
    require_trunk,
)
from rayscale.models.path import Skip
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

    def path(self, scale: float, channels: int) -> nn.Sequential:
        return nn.Sequential(self.sub_mean, self.head, Skip(self.body), self.tail, self.add_mean)
