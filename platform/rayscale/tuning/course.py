"""The course of a sweep: which trial is next, and what is kept of it. No Ray here.

``take`` gives the trials that have not ended first, then what the sampler proposes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from rayscale.tuning.samplers import SAMPLERS
from rayscale.tuning.sweep import Sweep
from rayscale.tuning.trials import Journal, State, Trial


class Rungs(Protocol):
    """What decides whether a trial goes on, by the figures of others."""

    def remember(self, name: str, reports: Iterable[Mapping[str, float]]) -> None:
        """Take note of reports that were made before this start."""


class Course:
    """The trials of a sweep on their way.

    Args:
        journal: keeps them; loaded.
        following: the trials to run, in order.
        on_end: called with each trial that has ended.
        learn: called with it too, before the next is taken.
    """

    def __init__(
        self,
        journal: Journal,
        following: Iterator[Trial],
        *,
        learn: Callable[[Trial], None] = lambda trial: None,
        on_end: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        self.journal, self.following = journal, following
        self.learn, self.on_end = learn, on_end
        self.running: dict[str, Trial] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves what it is given, and what it saves is never read, as the journal has it all."""
        return {}

    def take(self, name: str) -> Trial | None:
        """The next trial, known as ``name`` from now on; None when there is none."""
        trial = next(self.following, None)
        if trial is not None:
            self.running[name] = trial
            self.journal.write(trial)
        return trial

    def report(self, name: str, figures: Mapping[str, float]) -> None:
        """Keep the figures of a step."""
        trial = self.running[name]
        trial.report(figures)
        self.journal.write(trial)

    def end(self, name: str, state: State, error: str = "", *, final: bool = False) -> None:
        """Keep how a trial ended, the first time that is said."""
        trial = self.running.pop(name, None)
        if trial is None:
            return
        trial.state, trial.error, trial.final = state, error, final
        self.journal.write(trial)
        self.learn(trial)
        self.on_end(trial)

    def leave(self, name: str) -> None:
        """A trial is saved and has not ended: the next start of the sweep goes on with it."""
        self.running.pop(name, None)


def follow(sweep: Sweep, journal: Journal, rungs: Rungs | None, on_end: Callable[[Trial], None]) -> Course:  # fmt: skip
    """The course of a sweep whose trials do not depend on each other, from where its journal ends."""
    sampler = SAMPLERS[sweep.sampler](sweep.space, sweep.seed, sweep.mode)

    def learn(trial: Trial) -> None:
        sampler.learn(trial.values, trial.figure(sweep.metric))

    before = journal.listed()
    for trial in before:
        if trial.has_ended:
            learn(trial)
            if rungs is not None:
                rungs.remember(trial.name, trial.reports)
        else:
            sampler.keep(trial.values)

    def following() -> Iterator[Trial]:
        yield from (trial for trial in before if not trial.has_ended)
        for number in range(len(before), sweep.samples):
            values = sampler.propose(number)
            if values is None:
                print(f"the space has no more than {number} trials", flush=True)
                return
            yield Trial(number, sweep.run_name(values), values, sweep.trial.optimizer.steps)

    return Course(journal, following(), learn=learn, on_end=on_end)
