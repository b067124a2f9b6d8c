"""Where the figures of a run go: the interface that a tracker implements, and the console."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
        values = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
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
