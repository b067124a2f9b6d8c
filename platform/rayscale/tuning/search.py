"""The trials of a sweep on a Ray cluster: Tune draws and stops them, each is a run of Ray Train."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rayscale.interruption import attend
from rayscale.training.config import TrainConfig
from rayscale.tuning.spaces import SPACES
from rayscale.tuning.sweep import TRIAL_CPU, Sweep, override, rank, room


def search(sweep: Sweep) -> list[dict[str, Any]]:
    """Run the trials; one row each, as ``rank`` orders them."""
    from rayscale import cluster

    print(f"sweep: {sweep.name} below {sweep.base.run.uri}")
    print(f"ray: {cluster.connect(dashboard=True, log_to_driver=False)}", flush=True)
    # Tune's own tables and tracebacks: `progress` and `show` are shorter.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    import ray
    from ray import tune

    from rayscale.training.ray import make_switch

    concurrent, shares = room(sweep, ray.cluster_resources())
    need = {"CPU": shares["workers.cpus"]} | ({"GPU": 1.0} if shares["workers.gpu"] else {})
    workers = sweep.trial.workers
    cluster.check_room(
        workers.count, need, "change workers.count or workers.gpu", wait=workers.wait
    )
    tracking = sweep.base.logging.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    parent = open_parent(sweep, tracking)
    switch, watcher = make_switch(), watch_trials(sweep)
    trainable = tune.with_resources(
        functools.partial(
            run_trial,
            switch=switch,
            sweep=sweep.name,
            base=override(sweep.trial, shares).model_dump(mode="json"),
            tracking=tracking,
            parent=getattr(parent, "run_id", None),
        ),
        {"CPU": TRIAL_CPU},
    )
    tuner = make_tuner(sweep, trainable, concurrent, watcher)

    def stop(number: int) -> None:
        print("stopping: the trials end after their current steps ...", flush=True)
        watcher.stop = True
        switch.stop.remote()

    try:
        rows = rank(sweep, attend(tuner.fit, stop))
        if parent is not None:
            log_best(sweep, parent, rows[0])
    finally:
        if parent is not None:
            parent.close()
    return rows


def make_tuner(sweep: Sweep, trainable: Any, concurrent: int, watcher: Any) -> Any:
    """Tune's search: random draws, bad trials stopped early (ASHA)."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    from rayscale import cluster

    return tune.Tuner(
        trainable,
        param_space=SPACES[sweep.space](),
        tune_config=tune.TuneConfig(
            metric=sweep.metric,
            mode=sweep.mode,
            num_samples=sweep.samples,
            search_alg=BasicVariantGenerator(random_state=sweep.seed, max_concurrent=concurrent),
            scheduler=ASHAScheduler(
                time_attr="step",
                max_t=sweep.trial.optimizer.steps,
                grace_period=sweep.trial.validation.every,
                reduction_factor=2,
            ),
        ),
        run_config=tune.RunConfig(
            name=sweep.name,
            # Trials keep their state in their own runs; Tune's bookkeeping is not needed afterwards.
            storage_path=cluster.scratch(sweep.base.run.uri or ""),
            verbose=0,
            callbacks=[watcher],
            stop=watcher,
        ),
    )


def log_best(sweep: Sweep, parent: Any, best: Mapping[str, Any]) -> None:
    """The best trial's figure and values in the sweep's MLflow run; nothing where all failed."""
    if not best["error"]:
        parent.log_metrics({f"best/{sweep.metric}": best[sweep.metric]}, sweep.samples)
        parent.log_params({f"best.{key}": value for key, value in best["values"].items()})


def run_trial(
    values: dict[str, Any],
    *,
    switch: Any,
    sweep: str,
    base: dict[str, Any],
    tracking: str | None,
    parent: str | None,
) -> None:
    """One trial, in its own process: a training run named after its configuration."""
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    from rayscale import cluster
    from rayscale.training.ray import fit

    cluster.connect()  # sets Ray Train's switches for this process
    config = override(TrainConfig.parse(base), values)
    config = override(config, {"run.name": f"{sweep}-{config.digest[:8]}"})

    class ReportUntilTheLast(TuneReportCallback):  # type: ignore[misc]
        """ASHA ends a trial at its last report: that one waits until the run's result is in storage."""

        def after_report(
            self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
        ) -> None:
            if metrics[0]["step"] < config.optimizer.steps:
                super().after_report(run_context, metrics, checkpoint)

    factory = functools.partial(child_logger, tracking, parent) if tracking else None
    result = fit(
        config,
        logger_factory=factory,
        callbacks=[ReportUntilTheLast()],
        verbose=False,
        switch=switch,
    )
    tune.report({**result.metrics, "step": result.steps})


def open_parent(sweep: Sweep, tracking: str | None) -> Any:
    """The MLflow run that the trials' runs belong to, or None."""
    if not tracking:
        print("tracking: none (MLFLOW_TRACKING_URI is not set)")
        return None
    os.environ["MLFLOW_TRACKING_URI"] = tracking
    from rayscale.registry import MlflowLogger

    logger = MlflowLogger(sweep.base.logging.experiment, sweep.name)
    logger.log_params(sweep.trial.flat() | {"space": sweep.space, "samples": sweep.samples})
    logger.flush()  # the trials need to know its id
    return logger


def child_logger(tracking: str, parent: str | None, config: TrainConfig) -> Any:
    """The logger of a trial, in rank 0's process."""
    os.environ["MLFLOW_TRACKING_URI"] = tracking
    from rayscale.registry import MlflowLogger

    tags = {"mlflow.parentRunId": parent} if parent else {}
    return MlflowLogger(config.logging.experiment, config.run.name or "", tags=tags)


def watch_trials(sweep: Sweep) -> Any:
    """A Tune callback that prints a line per report, and a stopper: once its ``stop`` is set, when no trial runs any longer."""
    from ray import tune

    class Watcher(tune.Callback, tune.Stopper):  # type: ignore[misc]
        stop = False
        trials: Sequence[Any] = ()

        def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
            self.trials = trials

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return self.stop and not any(trial.status == "RUNNING" for trial in self.trials)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
        ) -> None:
            if sweep.metric in result:
                values = "  ".join(f"{k.split('.')[-1]} {v:.3g}" for k, v in trial.config.items())
                print(
                    f"{trial.trial_id}  {values}  step {int(result['step'])}  "
                    f"{sweep.metric} {result[sweep.metric]:.4g}",
                    flush=True,
                )

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            print(f"{trial.trial_id}  failed", flush=True)

    return Watcher()
