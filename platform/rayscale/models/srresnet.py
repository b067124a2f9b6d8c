"""SRResNet, the generator of SRGAN (Ledig et al. 2017, "Photo-Realistic Single Image Super-Resolution ...").

Not the "MSRResNet" of other toolkits, which has no batch normalisation.
"""

from __future__ import annotations

from torch import nn

from rayscale.models.network import (
    BatchNorm,
    SuperResolver,
    Upsampler,
    conv,
    require_one_scale,
    require_trunk,
)
from rayscale.models.path import Affine, Skip
from rayscale.models.spec import ModelSpec
from rayscale.models.system import GUARDED, SHORT, UNSHIFTED_OPTIONS, Values, system


class NormBlock(Skip):
    """A residual block with batch normalisation: ``x + bn(conv(prelu(bn(conv(x)))))``."""

    def __init__(self, filters: int) -> None:
        body = nn.Sequential(
            conv(filters, filters, 3),
            BatchNorm(filters),
            nn.PReLU(),
            conv(filters, filters, 3),
            BatchNorm(filters),
        )
        super().__init__(body)


def norm_head(channels: int, filters: int) -> nn.Sequential:
    """The first layer: 9x9 and PReLU."""
    return nn.Sequential(conv(channels, filters, 9), nn.PReLU())


def norm_body(filters: int, blocks: int) -> nn.Sequential:
    """The trunk, which its input is added to: the blocks, one more convolution and a normalisation."""
    return nn.Sequential(
        *(NormBlock(filters) for _ in range(blocks)),
        conv(filters, filters, 3),
        BatchNorm(filters),
    )


# Ledig et al. 2017: 96x96 HR crops, MSE, a constant rate for 1e6 updates.
_PAPER: Values = {
    "model.scale": 4,
    "data.patch": 24,
    "optimizer.decay": 1.0,
    "optimizer.loss": "mse",
    "optimizer.steps": 1_000_000,
}
# L1, as of EDSR, and a rate that batch normalisation bears (docs/lab.md).
_SHORT: Values = {**SHORT, "model.scale": 4, "optimizer.lr": 1e-3}
# SRGAN, from SRResNet: 1e5 updates at 1e-4 and 1e5 at 1e-5.
_GAN_PAPER: Values = {
    **_PAPER,
    **GUARDED,
    "optimizer.decay_every": 100_000,
    "optimizer.decay": 0.1,
    "optimizer.steps": 200_000,
}
_GAN_SHORT: Values = {
    **_PAPER,
    **GUARDED,
    "data.batch": 8,
    "optimizer.decay": 1.0,
    "optimizer.ema": 0.999,
    "optimizer.steps": 2000,
}


@system(
    "srgan",
    "SRGAN: SRResNet trained against a discriminator (Ledig et al. 2017)",
    defaults={"filters": 64, "blocks": 16, "value_range": 1.0},
    options=UNSHIFTED_OPTIONS,
    recipes={"paper": _GAN_PAPER, "short": _GAN_SHORT},
    pretraining="the model.safetensors of an SRResNet (rayscale train --system srresnet)",
)
@system(
    "srresnet",
    "SRResNet, 16 blocks of 64 filters with batch normalisation (Ledig et al. 2017)",
    defaults={"filters": 64, "blocks": 16, "value_range": 1.0},
    options=UNSHIFTED_OPTIONS,
    recipes={"paper": _PAPER, "short": _SHORT},
)
class SRResNet(SuperResolver):
    """16 residual blocks of 64 filters with batch normalisation, then sub-pixel convolutions, for one scale.

    Inside, LR lies in [0, 1] and HR in [-1, 1], as in the paper; ``forward`` maps both to ``[0, value_range]``.
    """

    scale_bound = ("tail.",)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        require_trunk(spec)
        require_one_scale(spec)
        self.head = norm_head(spec.channels, spec.filters)
        self.body = norm_body(spec.filters, spec.blocks)
        self.tail = nn.Sequential(
            Upsampler(spec.scales[0], spec.filters, nn.PReLU),
            conv(spec.filters, spec.channels, 9),
        )

    def path(self, scale: float, channels: int) -> nn.Sequential:
        half = self.spec.value_range / 2
        return nn.Sequential(
            Affine(1 / self.spec.value_range),
            self.head,
            Skip(self.body),
            self.tail,
            Affine(half, half),
        )
