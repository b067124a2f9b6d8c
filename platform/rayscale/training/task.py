"""Training A+ on a Ray cluster, as one task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rayscale.errors import RayscaleError
from rayscale.training.aplus import APlusConfig, train
from rayscale.training.run import TrainResult

LoggerFactory = Callable[[APlusConfig], Any]


def fit(
    config: APlusConfig, *, logger_factory: LoggerFactory | None = None, fresh: bool = False
) -> TrainResult:
    """Train on the connected cluster; Ray starts the task again when its worker or node is lost.

    Args:
        logger_factory: makes the logger in the process of the task; must be picklable.
        fresh: train anew what is complete.
    """
    import ray

    from rayscale import cluster

    cluster.check_room(1, {"CPU": config.workers.cpus}, "lower workers.cpus")
    task = ray.remote(cluster.return_error(_compute)).options(num_cpus=config.workers.cpus)
    try:
        outcome: TrainResult | RayscaleError = ray.get(
            task.remote(config.model_dump(mode="json"), fresh, logger_factory)
        )
    except ray.exceptions.RayError as error:
        raise RayscaleError(
            f"the training failed on the cluster: {error}; the same command starts over"
        ) from error
    return cluster.raise_error(outcome)


def _compute(
    values: dict[str, Any], fresh: bool, logger_factory: LoggerFactory | None
) -> TrainResult:
    """The task."""
    import torch

    config = APlusConfig.parse(values)
    torch.set_num_threads(config.workers.threads or max(1, int(config.workers.cpus)))
    logger = logger_factory(config) if logger_factory else None
    try:
        result = train(
            config, fresh=fresh, metrics=logger, say=lambda line: print(line, flush=True)
        )
    finally:
        if logger is not None:
            logger.close()
    return replace(result, run_id=logger.run_id if logger else None)
