"""Scores and pictures while training: the validation images through the one ``Upscaler``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayscale.errors import ConfigError
from rayscale.evaluation import Pair, at_scale, check_scales, evaluate, read_pairs
from rayscale.imaging.metrics import EDSR_PAPER, RGB
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
    """The validation images of a run, read once; rank 0 only.

    ``protocol`` is the EDSR paper's for grey and RGB, all channels for images of any other number of them. ``{scale}`` in their address stands for each integer scale of the run.
    Raises ConfigError where the run has several and the address is of one.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        uri = config.validation.uri
        assert uri is not None
        self.config = config
        self.device = device
        scales = [scale for scale in config.model.drawn if isinstance(scale, int)]
        if not scales:
            raise ConfigError(
                f"validation.uri is given, but none of the scales {list(config.model.drawn)} is an integer, as those of "
                "benchmarks are; add one to model.scales, or leave validation.uri out"
            )
        check_scales(uri, scales)
        self.pairs = {scale: list(read_pairs(at_scale(uri, scale), scale)) for scale in scales}
        channels = {pair.hr.channels for pairs in self.pairs.values() for pair in pairs}
        self.protocol = EDSR_PAPER if channels <= {1, 3} else RGB

    def score(
        self, spec: ModelSpec, state: dict[str, Tensor], step: int, logger: MetricLogger
    ) -> dict[str, float]:
        """PSNR (dB) and SSIM of the weights ``state``, logged under the protocol's name with pictures.

        With several scales these are the means over them; ``psnr_x2``, ``ssim_x2``, ... are those of each.
        """
        model = frozen(spec, state)
        scores: dict[str, float] = {}
        reports = []
        for scale, pairs in self.pairs.items():
            upscaler = Upscaler(
                model,
                scale,
                device=str(self.device),
                precision=self.config.precision,
                calibrate=False,  # what is trained is the network
            )
            report = evaluate(upscaler, pairs, protocol=self.protocol)
            reports.append(report)
            if len(self.pairs) > 1:
                scores |= {f"psnr_x{scale}": report.psnr, f"ssim_x{scale}": report.ssim}
            for pair in pairs[: self.config.validation.images]:
                if pair.lr.channels == model.channels or model.any_channels:
                    name = pair.name if len(self.pairs) == 1 else f"{pair.name}_x{scale}"
                    logger.log_image(name, comparison(pair, upscaler), step)
        scores["psnr"] = sum(report.psnr for report in reports) / len(reports)
        scores["ssim"] = sum(report.ssim for report in reports) / len(reports)
        logger.log_metrics(
            {f"{self.protocol.name}/{key}": value for key, value in scores.items()}, step
        )
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
