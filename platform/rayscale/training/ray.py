"""The plain loop on Ray Train: workers, their resources, what happens when one is lost or all are told to stop.

Resuming does not use Ray's checkpoints: a new group of workers
calls the same ``train``, which goes on from the run's own committed checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayscale import machine
from rayscale.errors import ConfigError, InputError, NotFoundError, RayscaleError, expect, quantity
from rayscale.interruption import Interrupted, attend
from rayscale.storage.lease import BusyError
from rayscale.training.config import TrainConfig
from rayscale.training.elastic import follow_cluster
from rayscale.training.network import PrometheusLogger, named_cluster, torch_config, trainer_class
from rayscale.training.run import Run, TrainResult, erase

if TYPE_CHECKING:
    from rayscale.training.metrics import MetricLogger

LoggerFactory = Callable[[TrainConfig], "MetricLogger"]

_WAY_OUT = (
    "change workers.count, workers.gpu (auto uses GPUs if there are any) or workers.cpus, or wait for an autoscaler with "
    "workers.wait=true"
)
_ANSWER_S = 10.0  # for an actor that only answers
# Every step allocates the same large tensors. The C library (glibc) is to keep their memory: what goes back to the kernel
# is cleared, page by page, at the next step.
_MALLOC = {
    "MALLOC_ARENA_MAX": "1",  # the steps are not in the main thread
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most it takes
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}


def fit(
    config: TrainConfig,
    *,
    logger_factory: LoggerFactory | None = None,
    callbacks: Iterable[Any] = (),
    fresh: bool = False,
    verbose: bool = True,
    switch: Any = None,
) -> TrainResult:
    """Train on the connected Ray cluster and return the result that the run wrote to storage.

    Args:
        config: the run; its ``workers`` section says how many and what each gets.
        logger_factory: makes the logger in rank 0's process; must be picklable.
        callbacks: ``ray.train.UserCallback``s of the controller, such as Tune's ``TuneReportCallback``.
        fresh: delete what the run has trained so far.
        verbose: rank 0 prints a line per logged step.
        switch: of ``make_switch``, where the caller stops several runs with it; the result is then not ``complete``.

    A lost worker or node costs the steps since the last checkpoint; ``workers.max_failures`` bounds how often, and
    how often the workers may fail to start. What would only fail again (a wrong configuration, data that cannot be
    read, a loss that is not finite) is raised at once, and so is BusyError where another process trains the same run.
    In the main thread, Ctrl-C and SIGTERM end the run after the current step with a checkpoint, and raise
    ``Interrupted``, which says at which step.
    """
    from rayscale.training.validation import is_scored

    expect(config, TrainConfig, "rayscale.training.config.TrainConfig")
    config = config.identified()
    run = Run(config)
    if not fresh and (finished := run.result()) is not None:
        if is_scored(finished, config.validation, config.model.drawn):
            return finished
        print(f"{config.uri} is complete; scoring it on {config.validation.uri}", flush=True)
    switch = switch or make_switch()

    def stop(number: int) -> None:
        import ray

        switch.stop.remote()
        try:
            begun = ray.get(switch.begun.remote(), timeout=_ANSWER_S)
        except ray.exceptions.RayError:
            begun = False
        if not begun:  # there is nothing to save, and the workers may be waiting for a place
            raise Interrupted(number)
        print("stopping after this step ...", flush=True)

    with run.lease:
        if fresh:
            erase(config.uri)
        run.claim()
        try:
            return attend(lambda: _fit(run, logger_factory, callbacks, verbose, switch), stop)
        except Interrupted as error:
            raise Interrupted(error.number, _kept(run)) from None


def _kept(run: Run) -> str:
    steps = run.checkpoints.steps()
    what = f"saved at step {steps[-1]}" if steps else "no step was saved yet"
    return f"{what}; run the same command again to resume"


def _fit(
    run: Run,
    logger_factory: LoggerFactory | None,
    callbacks: Iterable[Any],
    verbose: bool,
    switch: Any,
) -> TrainResult:
    """Train until the result is in storage, or the switch has stopped the workers."""
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    config = run.config
    # The attempts are counted here and not in FailureConfig, which would also repeat what is final.
    for left in reversed(range(config.workers.max_failures + 1)):
        try:
            with named_cluster():
                trainer = _trainer(run, logger_factory, callbacks, verbose, switch)
                result: TrainResult = trainer.fit().return_value
            return result
        except TrainingFailedError as error:
            cause = _cause(error)
            if _is_final(cause):
                raise cause from None
            reason = str(cause).strip().partition("\n")[0][:300] or type(cause).__name__
            if not left:
                failures = config.workers.max_failures + 1 - left
                raise RayscaleError(
                    f"training stopped after {quantity(failures, 'failure')} (workers.max_failures="
                    f"{config.workers.max_failures}), the last one: {reason}. Start the same command again "
                    f"to resume {config.uri}"
                ) from error
            # Anything else than a lost worker happens while the group starts, where the network may fail for once.
            lost = isinstance(error, WorkerGroupError)
            what = "a worker was lost" if lost else "the workers could not be started"
            print(f"{what} ({reason}); resuming from the last checkpoint", flush=True)
    raise AssertionError("unreachable")


class Switch:
    """An actor: whoever turns it lets the workers that listen end together after a step, with a checkpoint.

    The process that was told to stop turns it for good; the controller only until there is another group of workers.
    """

    def __init__(self) -> None:
        self._off = asyncio.Event()
        self._begun = self._final = False

    async def begin(self) -> None:
        """A worker is at its first step."""
        self._begun = True

    async def begun(self) -> bool:
        """Whether a worker has come to its first step."""
        return self._begun

    async def stop(self) -> None:
        """Let the workers end, and those after them."""
        self._final = True
        self._off.set()

    async def pause(self) -> None:
        """Let the workers of now end."""
        self._off.set()

    async def resume(self) -> None:
        """From now on workers go on, unless all of them have to stop."""
        if not self._final:
            self._off = asyncio.Event()

    async def stopped(self) -> None:
        """Returns when the workers have to end."""
        await self._off.wait()


def make_switch() -> Any:
    """A ``Switch`` on the connected cluster; it lives as long as somebody holds it."""
    import ray

    return ray.remote(num_cpus=0)(Switch).remote()


class _Listener:
    """In a worker: whether the switch was turned. The first time it is asked, training has begun."""

    def __init__(self, switch: Any) -> None:
        self._switch = switch
        self._begun = self._stopped = False
        threading.Thread(target=self._listen, name="stop", daemon=True).start()

    def __call__(self) -> bool:
        if not self._begun:
            self._begun = True
            self._switch.begin.remote()
        return self._stopped

    def _listen(self) -> None:
        import ray

        with suppress(ray.exceptions.RayError):
            ray.get(self._switch.stopped.remote())
            self._stopped = True


def _trainer(
    run: Run,
    logger_factory: LoggerFactory | None,
    callbacks: Iterable[Any],
    verbose: bool,
    switch: Any,
) -> Any:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.config import LoggingConfig

    from rayscale import cluster

    config = run.config
    workers = config.workers
    least = workers.minimum or workers.count
    if workers.minimum:
        with suppress(ray.exceptions.RayError):
            ray.get(cluster.see_nodes(), timeout=_ANSWER_S)
    gpus = ray.cluster_resources().get("GPU", 0)
    gpu = cluster.wants_gpus(workers.gpu, gpus / workers.gpu_share, least)
    resources = _resources(config, gpu, ray.nodes())
    cluster.check_room(least, resources, _WAY_OUT, wait=workers.wait)
    return trainer_class()(
        _work,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "generation": run.lease.generation,
            "logger_factory": logger_factory,
            "verbose": verbose,
            "switch": switch,
            "gpu": gpu,
        },
        torch_config=torch_config(),
        scaling_config=ScalingConfig(
            num_workers=(least, workers.count) if workers.minimum else workers.count,
            elastic_resize_monitor_interval_s=workers.resize_every_s,
            use_gpu=gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=config.run.name,
            # Ray leaves only a marker here: checkpoints and results are the run's own business.
            storage_path=cluster.scratch(config.run.uri or "", grows=workers.grows),
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[*callbacks, *_elastic(config, switch)],
            worker_runtime_env={"env_vars": _MALLOC},
        ),
    )


def _elastic(config: TrainConfig, switch: Any) -> list[Any]:
    """What more the controller does for workers that come and go."""
    if not config.workers.minimum:
        return []
    return [follow_cluster(switch, config.workers.resize_every_s)]


def _work(job: dict[str, Any]) -> TrainResult:
    """One worker: what Ray knows of ranks, devices and notices becomes the arguments of ``train``."""
    import ray.train.torch
    import torch
    from ray.train.v2._internal.execution import context as execution

    from rayscale.training.loop import train
    from rayscale.training.metrics import ConsoleLogger, Loggers

    # It would print every report of every worker, whatever the log level of the run (Ray 2.60).
    execution.logger.setLevel(logging.WARNING)
    config = TrainConfig.parse(job["config"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    # Ray sets OMP_NUM_THREADS to the CPUs reserved, which may be a fraction of what is idle.
    share = machine.cpu_count() // context.get_local_world_size()
    torch.set_num_threads(config.workers.threads or max(1, share))
    loggers: list[MetricLogger] = []
    if rank == 0:
        loggers = [PrometheusLogger(config.run.name or "")]
        loggers += [ConsoleLogger(config.optimizer.steps)] if job["verbose"] else []
        if job["logger_factory"] is not None:
            loggers.append(job["logger_factory"](config))
    metrics = Loggers(*loggers)
    try:
        result = train(
            config,
            rank=rank,
            world=world,
            device=str(ray.train.torch.get_device()) if job["gpu"] else "cpu",
            metrics=metrics,
            report=ray.train.report,
            stop=_Listener(job["switch"]),
            preempted=lambda: ray.train.get_preemption_info() is not None,
            generation=job["generation"],
            neighbours=context.get_local_world_size(),
        )
    finally:
        metrics.close()
    names = (getattr(logger, "run_id", None) for logger in loggers)
    return replace(result, run_id=next(filter(None, names), None))


def _resources(config: TrainConfig, gpu: bool, nodes: list[dict[str, Any]]) -> dict[str, float]:
    """What each worker reserves: one CPU, or a share where the only node has fewer CPUs than workers.

    The controller reserves none. Asking for more than a lone machine has would wait forever.
    """
    cpus = config.workers.cpus
    if cpus is None:
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        cpus = 1.0
        # Of workers that come and go, as many as there are whole CPUs.
        if not config.workers.minimum and len(alive) == 1 and (have := alive[0].get("CPU", 0.0)):
            cpus = min(1.0, int(100 * have / config.workers.count) / 100)
    return {"CPU": cpus, "GPU": config.workers.gpu_share} if gpu else {"CPU": cpus}


def _cause(error: Exception) -> Exception:
    """The exception behind a failed group of workers: a final one before those it caused elsewhere."""
    causes: list[Exception] = list(getattr(error, "worker_failures", {}).values())
    causes += [failure] if (failure := getattr(error, "controller_failure", None)) else []
    # What was raised in a task, not Ray's report of it.
    causes = [getattr(cause, "cause", None) or cause for cause in causes]
    return next((cause for cause in causes if _is_final(cause)), (causes or [error])[0])


def _is_final(cause: Exception) -> bool:
    """Whether trying again can only give the same."""
    from rayscale.training.guard import NonFiniteLossError, UnstableError

    final = (
        BusyError | ConfigError | InputError | NotFoundError | NonFiniteLossError | UnstableError
    )
    return isinstance(cause, final)
