"""SRCNN (Dong et al. 2014/15, "Image Super-Resolution Using Deep Convolutional Networks")."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from rayscale.errors import ConfigError
from rayscale.models.luma import PreUpsampled, he_conv
from rayscale.models.path import Affine
from rayscale.models.spec import ModelSpec
from rayscale.models.system import SHORT, Values, system

# Dong et al. 2014: 33x33 sub-images (here 16 LR pixels), about 8e8 backpropagations; in batches of 128, from memory.
_PAPER: Values = {
    "data.patch": 16,
    "data.batch": 128,
    "optimizer.algorithm": "sgd",
    "optimizer.last_layer_lr": 0.1,
    "optimizer.decay": 1.0,
    "optimizer.loss": "euclidean",
    "optimizer.steps": 6_250_000,
}
# Adam in place of SGD: the published schedule needs millions of steps to leave bicubic behind. A network that computes
# the image itself, not a residual, loses what it learns late in the 8 bits of bfloat16.
_SHORT: Values = {
    **SHORT,
    "precision": "float32",
    "data.patch": 16,
    "data.batch": 4,
    "optimizer.loss": "mse",
    "optimizer.steps": 28_000,
}
_FACTS: Values = {
    "defaults": {"filters": 64, "blocks": 0, "value_range": 1.0},
    "options": ("filters", "value_range"),
    "channels": 1,
    "recipes": {"paper": _PAPER, "short": _SHORT},
}


@system("srcnn", "SRCNN 9-1-5 of 64 and 32 filters, on luma (Dong et al. 2014)", **_FACTS)
class SRCNN(PreUpsampled):
    """Three convolutions on bicubic luma, 9-1-5 of 64 and 32 filters: trained for one scale.

    The paper trains on patches that shrink; here the size is kept by repeating the edge, as its authors did to
    evaluate whole images. It learns the image itself, not a residual. The paper's initial weights (deviation 0.001)
    pass almost no gradient, which took it 8e8 updates; here they are He's but for one filter of each layer, which
    passes the image on, and the last layer takes all else by 0.001: a fresh network is nearly bicubic.
    """

    middle: ClassVar[int] = 1

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if spec.filters < 2:
            raise ConfigError(f"{spec.system} needs at least 2 filters, not {spec.filters}")
        wide, narrow = spec.filters, spec.filters // 2
        first = he_conv(1, wide, 9, "replicate")
        second = he_conv(wide, narrow, self.middle, "replicate")
        third = he_conv(narrow, 1, 5, "replicate")
        with torch.no_grad():
            nn.init.normal_(third.weight, std=0.001)
            for layer in (first, second, third):
                layer.weight[0] = 0
                centre = layer.kernel_size[0] // 2
                layer.weight[0, 0, centre, centre] = 1
        relu = nn.ReLU(inplace=True)
        self.layers = nn.Sequential(first, relu, second, relu, third)

    def refine(self) -> nn.Sequential:
        value_range = self.spec.value_range
        return nn.Sequential(Affine(1 / value_range), self.layers, Affine(value_range))


@system("srcnn-955", "SRCNN 9-5-5, the best of the paper, on luma (Dong et al. 2015)", **_FACTS)
class SRCNN955(SRCNN):
    """The best of the journal version: a middle layer of 5x5."""

    middle = 5
