"""The trials of a sweep on a Ray cluster: Tune runs and stops them, each is a run of Ray Train."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from rayscale.interruption import attend
from rayscale.storage import connect
from rayscale.tuning.course import Course, follow
from rayscale.tuning.population import Member, first_generation, next_generation
from rayscale.tuning.sweep import Sweep, override, rank, room
from rayscale.tuning.trial import run_trial
from rayscale.tuning.trials import Journal, Trial
from rayscale.tuning.tune import fit_trials, make_rungs, prepare_tune


def search(sweep: Sweep) -> list[dict[str, Any]]:
    """Run the trials; one row each, as ``rank`` orders them.

    Trials that have ended in an earlier start stay as they are, and those that were stopped too; others go on.
    """
    from rayscale import cluster

    print(f"sweep: {sweep.uri}")
    print(f"ray: {cluster.connect(dashboard=True, log_to_driver=False)}", flush=True)
    prepare_tune()
    import ray

    from rayscale.training.ray import make_switch

    concurrent, shares = room(sweep, ray.cluster_resources())
    workers = sweep.trial.workers
    need = {"CPU": shares["workers.cpus"]}
    need |= {"GPU": workers.gpu_share} if shares["workers.gpu"] else {}
    cluster.check_room(
        workers.count, need, "change workers.count or workers.gpu", wait=workers.wait
    )
    journal = Journal(connect(sweep.uri), sweep.benchmark)
    journal.load()
    tracking = sweep.base.logging.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    with tracked(sweep, tracking) as tracker:
        job = functools.partial(
            run_trial,
            switch=(switch := make_switch()),
            base=override(sweep.trial, shares).model_dump(mode="json"),
            tracking=tracking,
            parent=tracker.run_id,
        )
        crew = Crew(sweep, journal, job, switch, concurrent, tracker)
        trials = crew.run_population() if sweep.scheduler == "pbt" else crew.run()
        rows = rank(sweep, trials)
        tracker.log_best(rows[0])
    return rows


class Crew:
    """What runs trials: how many at a time, by which function, and what stops them all."""

    def __init__(
        self, sweep: Sweep, journal: Journal, job: Any, switch: Any, concurrent: int, tracker: Any
    ) -> None:
        self.sweep, self.journal, self.job = sweep, journal, job
        self.switch, self.concurrent, self.tracker = switch, concurrent, tracker

    def run(self) -> list[Trial]:
        """The trials of a sweep that do not depend on each other."""
        rungs = make_rungs(self.sweep) if self.sweep.scheduler == "asha" else None
        course = follow(self.sweep, self.journal, rungs, self.tracker.conclude)
        left = self.sweep.samples - sum(trial.has_ended for trial in self.journal.listed())
        self._fit(course, left, rungs)
        return self.journal.listed()

    def run_population(self) -> list[Trial]:
        """A generation after the other; gives the trials of the last."""
        sweep = self.sweep
        members = first_generation(sweep.space, sweep.seed, sweep.samples)
        trials: list[Trial] = []
        for generation in range(sweep.generations):
            if generation:
                figures = [(trial.values, trial.figure(sweep.metric)) for trial in trials]
                members = next_generation(sweep.space, sweep.seed, generation, figures, sweep.mode)
            trials = self._members(generation, members, trials)
            course = Course(
                self.journal,
                iter([trial for trial in trials if not trial.has_ended]),
                on_end=self.tracker.conclude,
            )
            self._fit(course, sum(not trial.has_ended for trial in trials), None)
        return trials

    def _members(self, generation: int, members: list[Member], before: list[Trial]) -> list[Trial]:
        """The trials of a generation, as the journal has them."""
        sweep, trials = self.sweep, []
        steps = sweep.trial.optimizer.steps // sweep.generations * (generation + 1)
        for index, member in enumerate(members):
            parent = None
            if member.parent is not None:
                parent = (before[member.parent].name, before[member.parent].steps)
            number = generation * sweep.samples + index
            digest = override(sweep.trial, member.values).digest[:8]
            name = f"{sweep.name}-{generation}-{index:03d}-{digest}"
            made = Trial(number, name, member.values, steps, parent=parent)
            found = self.journal.trials.get(number)
            same = found and (found.values, found.parent) == (made.values, made.parent)
            trials.append(found if found and same else made)
        return trials

    def _fit(self, course: Course, count: int, rungs: Any) -> None:
        if count <= 0:
            return
        watcher, fit = fit_trials(
            self.sweep, course, self.job, count, concurrent=self.concurrent, rungs=rungs
        )

        def stop(number: int) -> None:
            print("stopping: the trials end after their current steps ...", flush=True)
            watcher.stop = True
            self.switch.stop.remote()

        attend(fit, stop)


class Tracker:
    """The sweep's run in MLflow, which those of the trials belong to; without a server it does nothing."""

    run_id: str | None = None

    def __init__(self, sweep: Sweep, logger: Any = None) -> None:
        self.sweep, self.logger = sweep, logger
        self._telling = ThreadPoolExecutor(1, "mlflow")  # a slow server keeps no trial waiting
        if logger is not None:
            logger.log_params(sweep.trial.flat() | sweep.settings())
            logger.flush()  # the trials need to know its id
            self.run_id = logger.run_id

    def conclude(self, trial: Trial) -> None:
        """Say in the trial's run how it ended: a trial that Tune stops cannot do so itself."""
        if self.logger is not None and trial.state != "complete":
            from rayscale.registry.tracking import conclude

            status = "KILLED" if trial.state == "stopped" else "FAILED"
            tags = {"rayscale.trial": trial.state, "rayscale.error": trial.error}
            name = trial.name
            self._telling.submit(conclude, self.sweep.base.logging.experiment, name, status, tags)

    def log_best(self, best: dict[str, Any]) -> None:
        """The best trial's figure and values; nothing where all failed."""
        if self.logger is not None and not best["error"]:
            self.logger.log_metrics(
                {f"best/{self.sweep.metric}": best[self.sweep.metric]}, self.sweep.samples
            )
            self.logger.log_params({f"best.{key}": value for key, value in best["values"].items()})
            self.logger.log_params({"best.run": best["run"]})

    def close(self) -> None:
        """Deliver the rest."""
        self._telling.shutdown(wait=True)
        if self.logger is not None:
            self.logger.close()


@contextmanager
def tracked(sweep: Sweep, tracking: str | None) -> Iterator[Tracker]:
    """The tracker of a sweep, closed at the end."""
    logger = None
    if tracking:
        os.environ["MLFLOW_TRACKING_URI"] = tracking
        from rayscale.registry import MlflowLogger

        logger = MlflowLogger(sweep.base.logging.experiment, sweep.name)
    else:
        print("tracking: none (MLFLOW_TRACKING_URI is not set)")
    tracker = Tracker(sweep, logger)
    try:
        yield tracker
    finally:
        tracker.close()
