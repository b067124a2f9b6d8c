"""The plain loop on Ray Train: workers, their resources, and what happens when one is lost.

The only file of this room that knows Ray. Resuming does not use Ray's checkpoints: a new group of workers
calls the same ``train``, which goes on from the run's own committed checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayscale import machine
from rayscale.errors import ConfigError, InputError, NotFoundError, RayscaleError
from rayscale.storage.lease import BusyError
from rayscale.training.config import TrainConfig
from rayscale.training.run import Run, TrainResult, erase, read_result

if TYPE_CHECKING:
    from rayscale.training.metrics import MetricLogger

LoggerFactory = Callable[[TrainConfig], "MetricLogger"]


def fit(
    config: TrainConfig,
    *,
    logger_factory: LoggerFactory | None = None,
    callbacks: Iterable[Any] = (),
    fresh: bool = False,
    verbose: bool = True,
) -> TrainResult:
    """Train on the connected Ray cluster and return the result that the run wrote to storage.

    Args:
        config: the run; its ``workers`` section says how many and what each gets.
        logger_factory: makes the logger in rank 0's process; must be picklable.
        callbacks: ``ray.train.UserCallback``s of the controller, such as Tune's ``TuneReportCallback``.
        fresh: delete what the run has trained so far.
        verbose: rank 0 prints a line per logged step.

    A lost worker or node costs the steps since the last checkpoint; ``workers.max_failures`` bounds how
    often. What would only fail again (a wrong configuration, data that cannot be read, a loss that is not
    finite) is raised at once, and so is BusyError where another process trains the same run.
    """
    config = config.identified()
    run = Run(config)
    if not fresh and (finished := run.result()) is not None:
        return finished
    with run.lease:
        if fresh:
            erase(config.uri)
        run.claim()
        run_id = _fit(run, logger_factory, callbacks, verbose)
    return replace(read_result(config.uri), run_id=run_id)


def _fit(
    run: Run, logger_factory: LoggerFactory | None, callbacks: Iterable[Any], verbose: bool
) -> str | None:
    """Train until the result is in storage; the tracker's name of the run."""
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    config = run.config
    # The attempts are counted here and not in FailureConfig, which would also repeat what is final.
    for left in reversed(range(config.workers.max_failures + 1)):
        try:
            name: str | None = _trainer(run, logger_factory, callbacks, verbose).fit().return_value
            return name
        except TrainingFailedError as error:
            cause = _cause(error)
            if _is_final(cause):
                raise cause from None
            reason = str(cause).strip().partition("\n")[0][:300] or type(cause).__name__
            if not left or not isinstance(error, WorkerGroupError):
                failures = config.workers.max_failures + 1 - left
                raise RayscaleError(
                    f"training stopped after {failures} failures (workers.max_failures="
                    f"{config.workers.max_failures}), the last one: {reason}. Start the same command again "
                    f"to resume {config.uri}"
                ) from error
            print(f"a worker was lost ({reason}); resuming from the last checkpoint", flush=True)
    raise AssertionError("unreachable")


def _trainer(
    run: Run,
    logger_factory: LoggerFactory | None,
    callbacks: Iterable[Any],
    verbose: bool,
) -> Any:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    from rayscale import cluster

    config = run.config
    gpu = _use_gpu(config, ray.cluster_resources())
    return TorchTrainer(
        _work,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "generation": run.lease.generation,
            "logger_factory": logger_factory,
            "verbose": verbose,
            "gpu": gpu,
        },
        scaling_config=ScalingConfig(
            num_workers=config.workers.count,
            use_gpu=gpu,
            resources_per_worker=_resources(config, gpu, ray.nodes()),
        ),
        run_config=RunConfig(
            name=config.run.name,
            # Ray leaves only a marker here: checkpoints and results are the run's own business.
            storage_path=cluster.scratch(config.run.uri or ""),
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=list(callbacks),
        ),
    )


def _work(job: dict[str, Any]) -> str | None:
    """One worker: what Ray knows of ranks and devices becomes the arguments of ``train``.

    Returns the tracker's name of the run.
    """
    import ray.train.torch
    import torch

    from rayscale.training.loop import train
    from rayscale.training.metrics import ConsoleLogger, Loggers

    config = TrainConfig.parse(job["config"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    # Ray sets OMP_NUM_THREADS to the CPUs reserved, which may be a fraction of what is idle.
    share = machine.cpu_count() // context.get_local_world_size()
    torch.set_num_threads(config.workers.threads or max(1, share))
    loggers: list[MetricLogger] = []
    if rank == 0:
        loggers = [ConsoleLogger(config.optimizer.steps)] if job["verbose"] else []
        if job["logger_factory"] is not None:
            loggers.append(job["logger_factory"](config))
    metrics = Loggers(*loggers)
    try:
        train(
            config,
            rank=rank,
            world=world,
            device=str(ray.train.torch.get_device()) if job["gpu"] else "cpu",
            metrics=metrics,
            report=ray.train.report,
            generation=job["generation"],
        )
    finally:
        metrics.close()
    return next((name for logger in loggers if (name := getattr(logger, "run_id", None))), None)


def _use_gpu(config: TrainConfig, cluster: dict[str, float]) -> bool:
    if config.workers.gpu == "auto":
        return cluster.get("GPU", 0) >= config.workers.count
    return config.workers.gpu


def _resources(config: TrainConfig, gpu: bool, nodes: list[dict[str, Any]]) -> dict[str, float]:
    """What each worker reserves: one CPU, or a share where the only node has fewer CPUs than workers.

    The controller reserves none. Asking for more than a lone machine has would wait for ever.
    """
    cpus = config.workers.cpus
    if cpus is None:
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        cpus = 1.0
        if len(alive) == 1 and (have := alive[0].get("CPU", 0.0)):
            cpus = min(1.0, int(100 * have / config.workers.count) / 100)
    return {"CPU": cpus, "GPU": 1.0} if gpu else {"CPU": cpus}


def _cause(error: Exception) -> Exception:
    """The exception behind a failed group of workers: a final one before those it caused elsewhere."""
    causes: list[Exception] = list(getattr(error, "worker_failures", {}).values())
    causes += [failure] if (failure := getattr(error, "controller_failure", None)) else []
    return next((cause for cause in causes if _is_final(cause)), (causes or [error])[0])


def _is_final(cause: Exception) -> bool:
    """Whether trying again can only give the same."""
    from rayscale.training.guard import NonFiniteLossError, UnstableError

    final = (
        BusyError | ConfigError | InputError | NotFoundError | NonFiniteLossError | UnstableError
    )
    return isinstance(cause, final)
