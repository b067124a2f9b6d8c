"""One trial in its own process: a training run that reports to Ray Tune."""

from __future__ import annotations

import functools
import os
import time
from typing import Any

from rayscale.errors import RayscaleError
from rayscale.storage.lease import BusyError
from rayscale.training.config import TrainConfig
from rayscale.tuning.sweep import override

_WAIT_S = 60.0  # for the processes of a sweep that was killed


def run_trial(
    trial: dict[str, Any],
    *,
    switch: Any,
    base: dict[str, Any],
    tracking: str | None,
    parent: str | None,
) -> None:
    """Train the run of a trial (``name``, ``values``, ``steps``, ``parent``) and report its figures, and at last its ``outcome``.

    That is ``complete``, ``interrupted`` or ``failed``, with an ``error`` that is ``final`` where it would only come again.
    """
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    from rayscale import cluster
    from rayscale.training.guard import NonFiniteLossError, UnstableError
    from rayscale.training.ray import fit

    cluster.connect()  # sets Ray Train's switches for this process
    config = override(TrainConfig.parse(base), trial["values"])
    steps = {"run.name": trial["name"], "optimizer.steps": trial["steps"]}
    config = override(config, steps)

    class ReportUntilTheLast(TuneReportCallback):  # type: ignore[misc]
        """ASHA ends a trial at its last report: that one waits until the run's result is in storage."""

        def after_report(
            self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
        ) -> None:
            if metrics[0]["step"] < config.optimizer.steps:
                super().after_report(run_context, metrics, checkpoint)

    factory = functools.partial(child_logger, tracking, parent) if tracking else None

    def train() -> Any:
        adopt(config, trial["parent"])
        return fit(
            config,
            logger_factory=factory,
            callbacks=[ReportUntilTheLast()],
            verbose=False,
            switch=switch,
        )

    try:
        result = _patiently(train)
    except RayscaleError as error:
        final = isinstance(error, NonFiniteLossError | UnstableError)
        tune.report({"outcome": "failed", "error": str(error), "final": final, "step": 0})
        return
    outcome = "complete" if result.complete else "interrupted"
    figures = result.metrics if result.complete else {}
    tune.report({**figures, "step": result.steps, "outcome": outcome})


def adopt(config: TrainConfig, parent: tuple[str, int] | None) -> None:
    """Start the run of ``config`` from a checkpoint of its parent: weights, moments and running means."""
    if parent is None:
        return
    from rayscale.training.run import Run

    config = config.identified()
    name, step = parent
    run, other = Run(config), Run(override(config, {"run.name": name}))
    if not run.checkpoints.steps():
        run.checkpoints.adopt(other.checkpoints, step)


def child_logger(tracking: str, parent: str | None, config: TrainConfig) -> Any:
    """The logger of a trial, in rank 0's process."""
    os.environ["MLFLOW_TRACKING_URI"] = tracking
    from rayscale.registry import MlflowLogger

    tags = {"mlflow.parentRunId": parent} if parent else {}
    return MlflowLogger(config.logging.experiment, config.run.name or "", tags=tags)


def _patiently(train: Any) -> Any:
    """The result of ``train``; the processes of a sweep that was killed may hold its run for some seconds."""
    end = time.monotonic() + _WAIT_S
    while True:
        try:
            return train()
        except BusyError:
            if time.monotonic() > end:
                raise
            time.sleep(1.0)
