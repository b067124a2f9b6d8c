"""Where the figures of a run go: the interface that a tracker implements, and the console."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Protocol

import numpy.typing as npt


class MetricLogger(Protocol):
    """What training needs of a tracker; ``rayscale.registry.MlflowLogger`` is one.

    No method may block or raise because a server is away: training goes on.
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one point per metric."""

    def log_image(self, name: str, pixels: npt.NDArray[Any], step: int) -> None:
        """Add a picture ``(H, W, C)`` of uint8 or uint16."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Add parameters of the run."""

    def close(self) -> None:
        """Deliver what is left."""


class ConsoleLogger:
    """One line per logged step on standard output."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        values = "  ".join(_words(dict(metrics)))
        # Not print(), which Ray Train replaces in its workers by one that shows every line twice.
        sys.stdout.write(f"step {step}/{self._steps}  {values}\n")
        sys.stdout.flush()

    def log_image(self, name: str, pixels: npt.NDArray[Any], step: int) -> None:
        """Pictures do not fit a line."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """The configuration is printed once, by whoever starts the run."""

    def close(self) -> None:
        """Nothing is buffered."""


class Loggers:
    """Several loggers as one."""

    def __init__(self, *loggers: MetricLogger) -> None:
        self._loggers = loggers

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for logger in self._loggers:
            logger.log_metrics(metrics, step)

    def log_image(self, name: str, pixels: npt.NDArray[Any], step: int) -> None:
        for logger in self._loggers:
            logger.log_image(name, pixels, step)

    def log_params(self, params: Mapping[str, Any]) -> None:
        for logger in self._loggers:
            logger.log_params(params)

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()


def _words(metrics: dict[str, float]) -> Iterator[str]:
    """A few words for each figure, with its unit; those that belong together as one."""
    share, lag = metrics.pop("peak_share", None), metrics.pop("slowest_lag", None)
    for name in ("work_seconds", "megapixels", "patch_bytes", "joules"):  # the end of the run tells
        metrics.pop(name, None)
    for name, value in metrics.items():
        match name:
            case "steps_per_s":
                yield f"{value:.3g} steps/s"
            case "patches_per_s":
                yield f"{value:.3g} patches/s"
            case "flops":
                of_peak = f" ({100 * share:.0f} % of peak)" if share is not None else ""
                yield f"{value / 1e12:.3g} TFLOP/s{of_peak}"
            case "data_wait":
                yield f"data {100 * value:.1f} %"
            case "memory_bytes":
                yield f"{value / 2**30:.2f} GiB"
            case "grad_norm":
                yield f"gradient {value:.3g}"
            case "slowest_rank":
                yield f"slowest rank {value:.0f}" + (f" (+{100 * lag:.0f} %)" if lag else "")
            case "seconds_left":
                yield f"{duration(value)} left"
            case _:
                yield f"{name} {value:.4g}"


def duration(seconds: float) -> str:
    """Seconds in the two largest units that they fill, as ``1 d 4 h``."""
    whole = max(0, round(seconds))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (smaller, part) in pairwise(units):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {smaller}"
    return f"{whole} s"
