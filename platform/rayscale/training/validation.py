"""Scores and pictures while training: the validation images through the one ``Upscaler``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayscale.evaluation import Pair, evaluate, read_pairs
from rayscale.imaging.metrics import EDSR_PAPER
from rayscale.inference import Upscaler
from rayscale.models.network import SuperResolver
from rayscale.models.registry import build
from rayscale.models.spec import ModelSpec
from rayscale.resampling import enlarge
from rayscale.training.config import TrainConfig
from rayscale.training.metrics import MetricLogger

_VIEW = 160  # LR pixels that a picture shows at most, per side

Pixels = npt.NDArray[Any]


class Validator:
    """The validation images of a run, read once; rank 0 only."""

    protocol = EDSR_PAPER

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        assert config.validation.uri is not None
        self.config = config
        self.device = device
        self.pairs = list(read_pairs(config.validation.uri, config.model.scale))

    def score(
        self, spec: ModelSpec, state: dict[str, Tensor], step: int, logger: MetricLogger
    ) -> dict[str, float]:
        """PSNR (dB) and SSIM of the weights ``state``, logged under the protocol's name with pictures."""
        upscaler = Upscaler(
            frozen(spec, state),
            self.config.model.scale,
            device=str(self.device),
            precision=self.config.precision,
        )
        report = evaluate(upscaler, self.pairs, protocol=self.protocol)
        scores = {"psnr": report.psnr, "ssim": report.ssim}
        logger.log_metrics(
            {f"{self.protocol.name}/{key}": value for key, value in scores.items()}, step
        )
        for pair in self.pairs[: self.config.validation.images]:
            if pair.lr.channels == upscaler.model.channels:
                logger.log_image(pair.name, comparison(pair, upscaler), step)
        return scores


def frozen(spec: ModelSpec, state: dict[str, Tensor]) -> SuperResolver:
    """A network of its own with copies of the weights, on the CPU."""
    model = build(spec)
    model.load_state_dict(state)
    return model


def comparison(pair: Pair, upscaler: Upscaler) -> Pixels:
    """The middle of the image three times side by side: bicubic, super-resolved, original."""
    scale = upscaler.scale
    height, width = (min(size, _VIEW) for size in (pair.lr.height, pair.lr.width))
    top, left = (pair.lr.height - height) // 2, (pair.lr.width - width) // 2
    lr = pair.lr.pixels[top : top + height, left : left + width]
    hr = pair.hr.pixels[top * scale : (top + height) * scale, left * scale : (left + width) * scale]
    return np.concatenate([enlarge(lr, scale), upscaler.upscale_pixels(lr), hr], axis=1)
