"""A course of trials through Ray Tune: its searcher takes them, its callback keeps them, its scheduler stops them (ASHA)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from rayscale.tuning.course import Course
from rayscale.tuning.sweep import TRIAL_CPU, Sweep


def prepare_tune() -> None:
    """Before Tune is imported: without its own tables and tracebacks, which the callback's lines replace."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    # The last report of a trial that failed has no figures.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def make_rungs(sweep: Sweep) -> Any:
    """Asynchronous successive halving (Li et al. 2020): a trial below the median of its rung is stopped.

    ``remember`` fills the rungs with reports of earlier starts.
    """
    from ray.tune.schedulers import ASHAScheduler

    class Rungs(ASHAScheduler):  # type: ignore[misc]
        def remember(self, name: str, reports: Iterable[Mapping[str, float]]) -> None:
            trial = SimpleNamespace(trial_id=name)
            self.on_trial_add(None, trial)
            for report in reports:
                self.on_trial_result(None, trial, dict(report))

    return Rungs(
        metric=sweep.metric,
        mode=sweep.mode,
        time_attr="step",
        max_t=sweep.trial.optimizer.steps,
        grace_period=sweep.trial.validation.every,
        reduction_factor=2,
    )


def fit_trials(
    sweep: Sweep, course: Course, job: Any, count: int, *, concurrent: int, rungs: Any
) -> tuple[Any, Callable[[], Any]]:
    """The callback whose ``stop`` ends it, and the function that runs ``count`` trials of the course."""
    from ray import tune

    from rayscale import cluster

    _keep_credentials()
    workers = sweep.trial.workers
    watcher = watch_trials(sweep, course)
    tuner = tune.Tuner(
        tune.with_resources(job, {"CPU": TRIAL_CPU}),
        tune_config=tune.TuneConfig(
            num_samples=count,
            max_concurrent_trials=concurrent,
            search_alg=make_searcher(course, rungs),
            scheduler=rungs,
        ),
        run_config=tune.RunConfig(
            name=sweep.name,
            # Trials keep their state in their own runs; Tune's bookkeeping is not needed afterwards.
            storage_path=cluster.scratch(sweep.base.run.uri or "", grows=workers.grows),
            verbose=0,
            callbacks=[watcher],
            stop=watcher,
        ),
    )
    return watcher, tuner.fit


def _keep_credentials() -> None:
    """Tune would copy AWS credentials into the runtime environment of trials, which Ray writes into its logs and shows to
    all who may see its dashboard. As for all else they are in the environment of the cluster."""
    from ray.tune.execution import class_cache

    passed_on = class_cache.ENV_VARS_TO_PROPAGATE
    passed_on -= {name for name in passed_on if name.startswith("AWS_")}


def make_searcher(course: Course, rungs: Any) -> Any:
    """A Tune searcher that asks the course for the next trial."""
    from ray.tune.search import Searcher

    class Taker(Searcher):  # type: ignore[misc]
        def suggest(self, trial_id: str) -> Any:
            trial = course.take(trial_id)
            if trial is None:
                return Searcher.FINISHED
            if rungs is not None:
                rungs.remember(trial_id, trial.reports)
            return {
                "name": trial.name, "values": trial.values, "steps": trial.steps, "parent": trial.parent
            }  # fmt: skip

        def on_trial_complete(self, trial_id: str, **_: Any) -> None:
            """The callback hears of it."""

        def save(self, checkpoint_path: str) -> None:
            """The journal has it all."""

        def restore(self, checkpoint_path: str) -> None:
            """The journal has it all."""

    return Taker()


def watch_trials(sweep: Sweep, course: Course) -> Any:
    """A Tune callback that keeps and prints every report, and a stopper: once its ``stop`` is set, when no trial runs any longer."""
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
            name, outcome = trial.trial_id, result.get("outcome")
            if name not in course.running:
                return
            if sweep.metric in result:
                course.report(name, result)
                print(line(trial, f"step {int(result['step'])}  {sweep.metric} {result[sweep.metric]:.4g}"), flush=True)  # fmt: skip
            if outcome == "failed":
                print(line(trial, f"failed: {result['error']}"), flush=True)
                course.end(name, "failed", result["error"], final=result["final"])
            elif outcome == "complete":
                course.end(name, "complete")
            elif outcome == "interrupted":
                course.leave(name)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # fmt: skip
            if trial.trial_id in course.running and not self.stop:
                print(line(trial, "stopped early"), flush=True)
                course.end(trial.trial_id, "stopped")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            lines = str(trial.get_error() or "its process died").strip().splitlines()
            print(line(trial, f"failed: {lines[-1]}"), flush=True)
            course.end(trial.trial_id, "failed", lines[-1])

    return Watcher()


def line(trial: Any, what: str) -> str:
    """A line about a trial of Tune."""
    values = "  ".join(f"{key.split('.')[-1]} {value:.3g}" if isinstance(value, float) else f"{key.split('.')[-1]} {value}"
                       for key, value in trial.config["values"].items())  # fmt: skip
    return f"{trial.config['name'].rpartition('-')[2]}  {values}  {what}"
