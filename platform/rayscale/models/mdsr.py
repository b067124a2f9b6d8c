"""MDSR (Lim et al. 2017, section 3.3): one trunk shared by several scales."""

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
from rayscale.models.system import INTEGER_SCALES, SHORT, Values, system

_PAPER: Values = {**INTEGER_SCALES, "optimizer.steps": 650_000}
_SHORT: Values = {**INTEGER_SCALES, **SHORT}


@system(
    "mdsr",
    "MDSR of the paper, one network for x2, x3 and x4, 80 blocks of 64 filters",
    defaults={"filters": 64, "blocks": 80},
    multiscale=True,
    recipes={"paper": _PAPER, "short": {**_SHORT, "optimizer.lr": 2e-4}},
)
@system(
    "mdsr-baseline",
    "MDSR, one network for x2, x3 and x4, 16 blocks of 64 filters",
    defaults={"filters": 64, "blocks": 16},
    multiscale=True,
    recipes={"paper": _PAPER, "short": _SHORT},
)
class MDSR(SuperResolver):
    """Per scale: two 5x5 residual blocks before and an upsampler after the shared trunk.

    Baseline: 16 blocks of 64 filters. Paper: 80 blocks of 64 filters. No residual scaling. The modules of a
    scale are indexed by its place in ``spec.scales``, ``(2, 3, 4)`` in the official order. In training, one
    call uses the modules of one scale only; the others get no gradient.
    """

    scale_bound = ("pre_process.", "upsample.")

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        require_trunk(spec)
        if spec.residual_scaling != 1.0:
            raise ConfigError(
                f"{spec.system} has no residual scaling; leave it at 1, not {spec.residual_scaling}"
            )
        filters = spec.filters
        self.sub_mean = MeanShift(spec.value_range, spec.mean, sign=-1)
        self.head = nn.Sequential(conv(spec.channels, filters, 3))
        self.pre_process = nn.ModuleList(
            nn.Sequential(ResBlock(filters, 5), ResBlock(filters, 5)) for _ in spec.scales
        )
        self.body = nn.Sequential(
            *(ResBlock(filters, 3) for _ in range(spec.blocks)), conv(filters, filters, 3)
        )
        self.upsample = nn.ModuleList(Upsampler(scale, filters) for scale in spec.scales)
        self.tail = nn.Sequential(conv(filters, spec.channels, 3))
        self.add_mean = MeanShift(spec.value_range, spec.mean, sign=+1)

    def path(self, scale: float, channels: int) -> nn.Sequential:
        index = self.scales.index(int(scale))
        return nn.Sequential(
            self.sub_mean,
            self.head,
            self.pre_process[index],
            Skip(self.body),
            self.upsample[index],
            self.tail,
            self.add_mean,
        )
