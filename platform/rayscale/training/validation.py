"""Scores and pictures while training: the validation images through the one ``Upscaler``.

Figures belong to a benchmark, which is known by the digests of its scales and not by its address: what was measured on
another is never told as of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayscale.degradations import Degradation
from rayscale.errors import ConfigError
from rayscale.evaluation import Pair, at_scale, check_scales, evaluate, identify, read_pairs
from rayscale.imaging.metrics import EDSR_PAPER, RGB, Protocol
from rayscale.inference import Precision, Upscaler
from rayscale.models.network import SuperResolver
from rayscale.models.spec import ModelSpec
from rayscale.models.systems import build
from rayscale.options import Options
from rayscale.resampling import enlarge
from rayscale.training.metrics import MetricLogger
from rayscale.training.run import TrainResult, fetch_model, record
from rayscale.training.sections import BenchmarkSection

_VIEW = 160  # LR pixels that a picture shows at most, per side

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Scored:
    """What a network scored, and pictures of what it makes."""

    scores: dict[str, float]
    pictures: dict[str, Pixels]


class Validator:
    """The validation images of a run, read once; rank 0 only.

    Args:
        uri: where they lie; ``{scale}`` in it stands for each scale.
        scales: of the run; those that are integers are scored.
        images: that are logged as pictures too.
        degradation: makes their LR images of HR.

    ``protocol`` is the EDSR paper's for grey and RGB, all channels for images of any other number of them; ``benchmark``
    is what ``TrainResult`` has under that name.

    Raises ConfigError where no scale is an integer, and where there are several and the address is of one.
    """

    def __init__(
        self,
        uri: str,
        scales: Sequence[float],
        *,
        device: torch.device | str,
        precision: Precision = "auto",
        images: int = 0,
        degradation: Degradation | None = None,
    ) -> None:
        self.device, self.precision, self.images = device, precision, images
        self.pairs = {scale: list(pairs) for scale, pairs in _read(uri, scales, degradation)}
        self.protocol, digests = _identify(self.pairs.items())
        self.benchmark: dict[str, Any] = {"uri": uri, "digests": digests}
        if degradation is not None:
            self.benchmark["degradation"] = str(degradation)

    @property
    def params(self) -> dict[str, str]:
        """What a tracker stores of the images."""
        digests = self.benchmark["digests"]
        return {f"validation.digest.{scale}": digest for scale, digest in digests.items()}

    def knows(self, benchmark: Mapping[str, Any]) -> bool:
        """Whether figures of ``benchmark`` are figures of these images."""
        return bool(benchmark.get("digests") == self.benchmark["digests"])

    def score(self, model: SuperResolver, cancelled: Callable[[], bool] = lambda: False) -> Scored:
        """PSNR (dB) and SSIM of ``model``, with the pictures to log.

        With several scales these are the means over them; ``psnr_x2``, ``ssim_x2``, ... are those of each.
        ``cancelled`` is asked before each image; once it is true ``CancelledError`` is raised.
        """
        scores: dict[str, float] = {}
        pictures: dict[str, Pixels] = {}
        reports = []
        for scale, pairs in self.pairs.items():
            upscaler = Upscaler(
                model,
                Options(scale=scale, precision=self.precision),
                device=str(self.device),
                calibrate=False,
            )
            report = evaluate(upscaler, _until(cancelled, pairs), protocol=self.protocol)
            reports.append(report)
            if len(self.pairs) > 1:
                scores |= {f"psnr_x{scale}": report.psnr, f"ssim_x{scale}": report.ssim}
            for pair in _until(cancelled, pairs[: self.images]):
                if pair.lr.channels == model.channels or model.any_channels:
                    name = pair.name if len(self.pairs) == 1 else f"{pair.name}_x{scale}"
                    pictures[name] = comparison(pair, upscaler)
        scores["psnr"] = sum(report.psnr for report in reports) / len(reports)
        scores["ssim"] = sum(report.ssim for report in reports) / len(reports)
        return Scored(scores, pictures)

    def log(self, scored: Scored, step: int, logger: MetricLogger) -> dict[str, float]:
        """Log the pictures, and the scores under the protocol's name; gives the scores."""
        for name, pixels in scored.pictures.items():
            logger.log_image(name, pixels, step)
        figures = {f"{self.protocol.name}/{key}": value for key, value in scored.scores.items()}
        logger.log_metrics(figures, step)
        return scored.scores

    def score_again(self, result: TrainResult, logger: MetricLogger) -> TrainResult:
        """The result of a complete run, now and in storage with the figures of these images.

        Raises StorageError where the weights are not there or not those of the result.
        """
        logger.log_params(self.params)
        scores = self.log(self.score(fetch_model(result)), result.steps, logger)
        history = [
            row for row in result.history if self.knows(result.benchmark) or "psnr" not in row
        ]
        again = replace(
            result,
            metrics=_without_scores(result.metrics) | scores,
            protocol=self.protocol.name,
            benchmark=self.benchmark,
            history=[*history, {"step": float(result.steps), **scores}],
            best={},  # it was chosen by other images
        )
        record(again)
        return again


def is_scored(result: TrainResult, images: BenchmarkSection, scales: Sequence[float]) -> bool:
    """Whether the figures of a complete run are those of a benchmark, as it is now; true where none is given."""
    if images.uri is None:
        return True
    return result.protocol is not None and result.benchmark.get("digests") == read_digests(
        images, scales
    )


def read_digests(images: BenchmarkSection, scales: Sequence[float]) -> dict[str, str]:
    """The digests of a benchmark by scale (``x2``), as in ``rayscale.evaluation.identify``; empty where none is given."""
    return _identify(_read(images.uri, scales, images.degradation))[1] if images.uri else {}


def _read(
    uri: str, scales: Sequence[float], degradation: Degradation | None
) -> Iterator[tuple[int, Iterator[Pair]]]:
    whole = [scale for scale in scales if isinstance(scale, int)]
    if not whole:
        raise ConfigError(
            f"validation.uri is given, but none of the scales {list(scales)} is an integer, as those of "
            "benchmarks are; add one to model.scales, or leave validation.uri out"
        )
    if degradation is None:
        check_scales(uri, whole)
    for scale in whole:
        yield scale, read_pairs(at_scale(uri, scale), scale, degradation=degradation)


def _until(cancelled: Callable[[], bool], pairs: Iterable[Pair]) -> Iterator[Pair]:
    for pair in pairs:
        if cancelled():
            raise CancelledError
        yield pair


def _identify(
    pairs: Iterable[tuple[int, Iterable[Pair]]],
) -> tuple[Protocol, dict[str, str]]:
    """How a benchmark is compared, and the digest of each scale."""
    found: dict[int, list[str]] = {}
    channels = set()
    for scale, some in pairs:
        for pair in some:
            found.setdefault(scale, []).append(pair.digest)
            channels.add(pair.hr.channels)
    protocol = EDSR_PAPER if channels <= {1, 3} else RGB
    return protocol, {f"x{scale}": identify(scale, protocol.name, found[scale]) for scale in found}


def _without_scores(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: metrics[key] for key in metrics if not key.startswith(("psnr", "ssim"))}


def freeze(spec: ModelSpec, state: dict[str, Tensor]) -> SuperResolver:
    """A network of its own with copies of the weights, on the CPU; it draws no random numbers."""
    with torch.random.fork_rng(devices=[]):
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
