"""EDSR (Lim et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution")."""

from __future__ import annotations

from torch import nn

from rayscale.models.network import (
    MeanShift,
    ResBlock,
    SuperResolver,
    Upsampler,
    conv,
    require_one_scale,
    require_trunk,
)
from rayscale.models.path import Skip
from rayscale.models.spec import ModelSpec
from rayscale.models.system import EDSR_OPTIONS, GUARDED, SHORT, system


# The official code skips updates whose loss is far above the last epoch's: the wide network can diverge.
@system(
    "edsr",
    "EDSR of the paper, 32 blocks of 256 filters, residual scaling 0.1",
    defaults={"filters": 256, "blocks": 32, "residual_scaling": 0.1},
    options=EDSR_OPTIONS,
    recipes={"paper": GUARDED, "short": {**GUARDED, **SHORT, "optimizer.lr": 2e-4}},
)
@system(
    "edsr-baseline",
    "EDSR, 16 blocks of 64 filters (Lim et al. 2017)",
    defaults={"filters": 64, "blocks": 16},
    options=EDSR_OPTIONS,
    recipes={"paper": {}, "short": SHORT},
)
class EDSR(SuperResolver):
    """One trunk of residual blocks at LR size and an upsampler at the end, for one scale.

    Baseline: 16 blocks of 64 filters. Paper: 32 blocks of 256 filters, residual scaling 0.1.
    """

    scale_bound = ("tail.",)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        require_trunk(spec)
        require_one_scale(spec)
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
