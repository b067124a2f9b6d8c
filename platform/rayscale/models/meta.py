"""Networks for any scale: a trunk at LR size and the meta-upscale module of Meta-SR.

Meta-SR is Hu et al. 2019 ("Meta-SR: A Magnification-Arbitrary Network for Super-Resolution"), Meta-SRGAN is Tan,
Zhu and Lio 2020 ("Arbitrary Scale Super-Resolution for Brain MRI Images").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayscale.models.network import (
    MeanShift,
    ResBlock,
    SuperResolver,
    conv,
    full_precision,
    require_trunk,
)
from rayscale.models.path import reach
from rayscale.models.spec import ModelSpec
from rayscale.models.srresnet import norm_body, norm_head
from rayscale.models.system import (
    EDSR_OPTIONS,
    GUARDED,
    SHORT,
    TENTHS,
    UNSHIFTED_OPTIONS,
    Values,
    system,
)
from rayscale.resampling import exact_scale

_KERNEL = 3
_HIDDEN = 256
_PATCH_NUMBERS = 1 << 24  # of the unfolded features held at a time: 64 MB


class MetaUpscale(nn.Module):
    """Every output pixel has a 3x3 kernel of its own, predicted from the scale and its place in its LR pixel.

    Output row ``i`` at scale ``r`` lies in LR row ``floor(i / r)`` at the offset ``i / r - floor(i / r)``; columns
    likewise. With ``r = p/q`` in lowest terms these are integers, ``i * q`` divided by ``p``: every LR pixel of
    the same place modulo ``q`` becomes the same few output pixels. So each kernel is computed once (at most
    ``p * p`` of them) and applied to a grid of stride ``q``, exactly the same in a tile that starts at a multiple of
    ``q`` as in the whole image.
    """

    def __init__(self, filters: int, channels: int) -> None:
        super().__init__()
        self.filters, self.channels = filters, channels
        self.padding_mode = "constant"
        self.predictor = nn.Sequential(
            nn.Linear(3, _HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(_HIDDEN, filters * _KERNEL**2 * channels),
        )
        # PyTorch's start would make kernels ten times as strong as a fresh convolution's, and training begin with
        # unlearning them.
        bound = (_HIDDEN * filters * _KERNEL**2) ** -0.5
        for parameter in self.predictor[-1].parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def kernels(self, rows: range, columns: range, p: int, q: int) -> Tensor:
        """Kernels ``(columns, rows * channels, filters * 9)`` of output pixels, float32 also under autocast.

        The predictor sees (1 / r, row offset, column offset) and gives ``(filters * 9, channels)``.
        """
        weight = self.predictor[-1].weight
        assert isinstance(weight, Tensor)
        places = [(q / p, i * q % p / p, j * q % p / p) for j in columns for i in rows]
        with full_precision(weight):
            kernels: Tensor = self.predictor(weight.new_tensor(places))
        kernels = kernels.view(len(columns), len(rows), -1, self.channels)
        return kernels.transpose(2, 3).flatten(1, 2)

    def forward(self, features: Tensor, scale: float) -> Tensor:
        """``(N, filters, H, W)`` to ``(N, channels, floor(scale * H), floor(scale * W))``."""
        p, q = exact_scale(scale).as_integer_ratio()
        height, width = features.shape[-2:]
        # Whole periods where there are several, so that all places modulo q are equally many.
        down, right = (-size % q if size > q else 0 for size in (height, width))
        padded = functional.pad(features, (1, 1 + right, 1, 1 + down), self.padding_mode)
        across = min(q, width)
        columns = range(_first(across, p, q))
        bands = []
        for top in range(min(q, height)):
            rows = range(_first(top, p, q), _first(top + 1, p, q))
            kernels = self.kernels(rows, columns, p, q)
            # A view (place across, filters, 3, 3, N, periods down, periods across).
            windows = padded[:, :, top:].unfold(2, _KERNEL, q).unfold(3, _KERNEL, 1)
            windows = windows.reshape(*windows.shape[:3], -1, across, _KERNEL, _KERNEL)
            windows = windows.permute(4, 1, 5, 6, 0, 2, 3)
            step = max(1, _PATCH_NUMBERS // windows[..., 0, :].numel())
            parts = []
            for chunk in torch.split(windows, step, dim=5):
                patches = chunk.reshape(across, -1, chunk[0, 0, 0, 0].numel())
                pixels = torch.cat(
                    [
                        kernels[_first(left, p, q) : _first(left + 1, p, q)].flatten(0, 1)
                        @ patches[left]
                        for left in range(across)
                    ]
                )
                sizes = (len(columns), len(rows), self.channels, *chunk.shape[4:])
                parts.append(pixels.view(sizes))
            bands.append(torch.cat(parts, dim=4))
        # (columns, rows, channels, N, periods down, periods across): what varies slowest comes first in an image.
        image = torch.cat(bands, dim=1).permute(3, 2, 4, 1, 5, 0).flatten(4, 5).flatten(2, 3)
        return image[:, :, : height * p // q, : width * p // q]


def _first(source: int, p: int, q: int) -> int:
    """The first output pixel in LR pixel ``source``: ``ceil(source * p / q)``."""
    return -(-source * p // q)


class _MetaResolver(SuperResolver):
    """A trunk with a long skip, then meta-upscale. A subclass sets ``head``, ``body`` and ``upscale``."""

    scale_range = (1.0, 4.0)
    head: nn.Module
    body: nn.Module
    upscale: MetaUpscale

    def trunk(self, x: Tensor, scale: float) -> Tensor:
        head = self.head(x)
        image: Tensor = self.upscale(self.body(head) + head, scale)
        return image

    def halo(self, scale: float) -> int:
        self.resolve_scale(scale)
        return reach((self.head, self.body)) + _KERNEL // 2


# Hu et al. 2019: LR patches of 50, the rate halved every 200 epochs (of 1000 steps).
@system(
    "meta-edsr",
    "EDSR-baseline's trunk with meta-upscale, one network for all scales (after Hu et al. 2019)",
    defaults={"filters": 64, "blocks": 16},
    options=EDSR_OPTIONS,
    multiscale=True,
    recipes={
        "paper": {**TENTHS, "data.patch": 50},
        "short": {**TENTHS, **SHORT, "data.patch": 20},
    },
)
class MetaEDSR(_MetaResolver):
    """The trunk of EDSR-baseline (16 blocks of 64 filters, no normalisation) with meta-upscale."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        require_trunk(spec)
        self.sub_mean = MeanShift(spec.value_range, spec.mean, sign=-1)
        self.head = conv(spec.channels, spec.filters, 3)
        self.body = nn.Sequential(
            *(ResBlock(spec.filters, 3, spec.residual_scaling) for _ in range(spec.blocks)),
            conv(spec.filters, spec.filters, 3),
        )
        self.upscale = MetaUpscale(spec.filters, spec.channels)
        self.add_mean = MeanShift(spec.value_range, spec.mean, sign=+1)

    def enlarge(self, x: Tensor, scale: float) -> Tensor:
        enlarged: Tensor = self.add_mean(self.trunk(self.sub_mean(x), scale))
        return enlarged


# Tan et al. 2020 in the form of their later MIASSR: L1 first (adversarial.weight=0), then 100 epochs against the
# discriminator, the rate halved after 50. Epochs of 1000 steps are an assumption.
_GAN: Values = {**TENTHS, **GUARDED, "adversarial.content": "l1"}


@system(
    "meta-srgan",
    "Meta-SRGAN for one-channel scans, one network for all scales, 5 blocks (Tan et al. 2020)",
    defaults={"filters": 64, "blocks": 5, "value_range": 1.0},
    options=UNSHIFTED_OPTIONS,
    multiscale=True,
    channels=1,
    recipes={
        "paper": {
            **_GAN,
            "data.patch": 50,
            "optimizer.decay_every": 50_000,
            "optimizer.steps": 100_000,
        },
        "short": {**_GAN, **SHORT, "data.patch": 20},
    },
    pretraining="the model.safetensors of the same job with adversarial.weight=0",
)
class MetaSRGAN(_MetaResolver):
    """The generator of Meta-SRGAN: SRGAN's trunk with 5 blocks of 64 filters, then meta-upscale.

    The authors' tutorial gives the predictor ones in place of offsets, which cannot tell the output pixels of one LR
    pixel apart; here it gets Meta-SR's coordinates.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        require_trunk(spec)
        self.head = norm_head(spec.channels, spec.filters)
        self.body = norm_body(spec.filters, spec.blocks)
        self.upscale = MetaUpscale(spec.filters, spec.channels)

    def enlarge(self, x: Tensor, scale: float) -> Tensor:
        return self.trunk(x / self.spec.value_range, scale) * self.spec.value_range
