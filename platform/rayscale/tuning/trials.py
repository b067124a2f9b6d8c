"""What became of each trial, in storage beside the runs: a sweep that is started again goes on from here.

``SWEEP/trials/00000.json`` is written whole after every report, by the driver alone, which holds the lease.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from rayscale import strictjson
from rayscale.errors import StorageError
from rayscale.storage import Store

State = Literal["running", "complete", "stopped", "failed"]


@dataclass
class Trial:
    """One trial.

    Attributes:
        number: of the trial, from 0.
        name: of its run, below ``run.uri``.
        values: that were drawn, by key.
        steps: of the whole trial.
        state: ``running`` until it has ended (also while nobody works on it), ``complete``, ``stopped`` early, ``failed``.
        reports: the figures so far, each with its ``step``.
        error: why it failed.
        final: whether a failure would only come again, as a loss that is not finite.
        parent: name of the run, and step, whose checkpoint it starts from; None where it starts anew.
        benchmark: digests of the images that the figures were measured on.
    """

    number: int
    name: str
    values: dict[str, Any]
    steps: int
    state: State = "running"
    reports: list[dict[str, float]] = field(default_factory=list)
    error: str = ""
    final: bool = False
    parent: tuple[str, int] | None = None
    benchmark: dict[str, str] = field(default_factory=dict)

    def figure(self, metric: str) -> float | None:
        """The last value of ``metric``; None where the trial failed or has none that is finite."""
        value = self.reports[-1].get(metric, math.nan) if self.reports else math.nan
        return value if self.state != "failed" and math.isfinite(value) else None

    @property
    def has_ended(self) -> bool:
        """Whether it stays as it is; what failed for once (a lost machine) is tried again."""
        return self.state in ("complete", "stopped") or (self.state == "failed" and self.final)

    def report(self, figures: Mapping[str, float]) -> None:
        """Add a report; one of the same step replaces the former, as a trial that resumes may come past it again."""
        kept = {key: float(figures[key]) for key in FIGURES if key in figures}
        self.reports = [each for each in self.reports if each["step"] < kept["step"]] + [kept]

    def again(self) -> None:
        """Put back to ``running``, for one that has not ended for good."""
        self.state, self.error, self.final = "running", "", False


FIGURES = ("step", "loss", "psnr", "ssim")


class Journal:
    """The trials of a sweep below ``store``."""

    def __init__(self, store: Store, benchmark: Mapping[str, str]) -> None:
        self.store, self.benchmark = store, dict(benchmark)
        self.trials: dict[int, Trial] = {}

    def load(self) -> list[Trial]:
        """The trials in storage, by number; figures of other images are forgotten, and what failed for once with them.

        Raises StorageError for a file that is damaged.
        """
        for entry in self.store.list("trials/"):
            trial = _read(self.store, entry.key)
            if trial.benchmark != self.benchmark:
                trial.reports, trial.benchmark = [], self.benchmark
                trial.again()
            if not trial.has_ended:
                trial.again()
            self.trials[trial.number] = trial
        return self.listed()

    def listed(self) -> list[Trial]:
        """The trials, by number."""
        return [self.trials[number] for number in sorted(self.trials)]

    def write(self, trial: Trial) -> None:
        """Keep a trial as it is now."""
        trial.benchmark = self.benchmark
        self.trials[trial.number] = trial
        text = strictjson.dumps(asdict(trial), indent=1)
        self.store.write(f"trials/{trial.number:05d}.json", text.encode())


def _read(store: Store, key: str) -> Trial:
    try:
        values = strictjson.loads(store.read(key))
        known = {each.name for each in fields(Trial)}  # later versions may add others
        trial = Trial(**{name: value for name, value in values.items() if name in known})
        trial.parent = (trial.parent[0], int(trial.parent[1])) if trial.parent else None
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise StorageError(
            f"{store.locate(key)} is damaged ({error}); delete it, and its trial is resumed from its run"
        ) from None
    return trial
