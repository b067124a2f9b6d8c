"""VDSR (Kim et al. 2016, "Accurate Image Super-Resolution Using Very Deep Convolutional Networks")."""

from __future__ import annotations

from itertools import chain, pairwise

import torch
from torch import nn

from rayscale.errors import ConfigError
from rayscale.models.luma import PreUpsampled, he_conv
from rayscale.models.path import Affine, Skip
from rayscale.models.spec import ModelSpec
from rayscale.models.system import GUARDED, INTEGER_SCALES, SHORT, UNSHIFTED_OPTIONS, Values, system

# Kim et al. 2016: 80 epochs, 9960 steps from memory, the rate falls to a tenth every 20. Batches of 64 patches of 41x41
# on the target's grid are here 48 of 48x48, as many pixels, which three scales share. The bound is open in the paper.
# The 0.4 of ports is one on the norm and diverges at once here; from 1e-3 on all activations die and bicubic is left,
# 1e-4 learns (docs/lab.md).
_PAPER: Values = {
    **INTEGER_SCALES,
    **GUARDED,
    "data.mixed": True,
    "data.patch": 24,
    "data.batch": 48,
    "optimizer.algorithm": "sgd",
    "optimizer.lr": 0.1,
    "optimizer.weight_decay": 1e-4,
    "optimizer.decay_every": 2490,
    "optimizer.decay": 0.1,
    "optimizer.clip": "adjustable",
    "optimizer.clip_at": 1e-4,
    "optimizer.loss": "euclidean",
    "optimizer.steps": 9960,
}
_SHORT: Values = {
    **INTEGER_SCALES,
    **SHORT,
    "data.mixed": True,
    "data.patch": 18,
    "data.batch": 12,
    "optimizer.lr": 2e-4,
    "optimizer.last_layer_lr": 0.1,
}


@system(
    "vdsr",
    "VDSR, one network for all scales, 20 layers of 64 filters, on luma (Kim et al. 2016)",
    defaults={"filters": 64, "blocks": 20, "value_range": 1.0},
    options=UNSHIFTED_OPTIONS,
    multiscale=True,
    channels=1,
    recipes={"paper": _PAPER, "short": _SHORT},
)
class VDSR(PreUpsampled):
    """Twenty 3x3 convolutions (``blocks``) of 64 filters that learn what bicubic luma lacks.

    One network for all scales: they are mixed in training. Initialised after He et al. 2015, the last layer at a
    fiftieth of that: detail is some hundredths of white, and a network that starts with errors of white
    unlearns its first layers before it learns (docs/lab.md).
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if spec.blocks < 2 or spec.filters < 1:
            raise ConfigError(
                f"{spec.system} needs at least 2 layers (blocks) and 1 filter, not {spec.blocks} and "
                f"{spec.filters}"
            )
        widths = [1, *[spec.filters] * (spec.blocks - 1), 1]
        layers = [he_conv(inputs, outputs, 3) for inputs, outputs in pairwise(widths)]
        with torch.no_grad():
            layers[-1].weight.mul_(0.02)
        activated = chain.from_iterable((layer, nn.ReLU(inplace=True)) for layer in layers)
        self.layers = nn.Sequential(*list(activated)[:-1])

    def refine(self) -> Skip:
        value_range = self.spec.value_range
        return Skip(nn.Sequential(Affine(1 / value_range), self.layers), value_range)
