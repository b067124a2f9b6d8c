"""What a sweep is: the base of its trials, how many fit a cluster, and which of them is the best. No Ray here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from rayscale import strictjson
from rayscale.cluster import wants_gpus
from rayscale.errors import ConfigError, quantity
from rayscale.fields import check_counts
from rayscale.training.config import TrainConfig, load_config
from rayscale.training.validation import read_digests
from rayscale.tuning import population
from rayscale.tuning.samplers import SAMPLERS, Draws
from rayscale.tuning.spaces import Space, describe, draw, grid, make_space
from rayscale.tuning.trials import Trial

TRIAL_CPU = 0.1  # of the process that waits for the workers of its trial

Scheduler = Literal["asha", "none", "pbt"]


@dataclass(frozen=True)
class Sweep:
    """What is searched: the base of every trial, what proposes and stops them, and how they are compared.

    ``samples`` are the trials, or the population; ``generations`` are those of population based training.
    """

    base: TrainConfig
    trial: TrainConfig
    space: Space
    samples: int
    seed: int
    concurrent: int | None
    sampler: str = "random"
    scheduler: Scheduler = "asha"
    generations: int = 1

    @property
    def name(self) -> str:
        """A hash of what decides the trials; more of them are the same sweep, gone on with."""
        what: list[Any] = [self.trial.digest, describe(self.space), self.seed]
        what += [self.trial.optimizer.steps, self.sampler, self.scheduler, self.generations]
        what += [self.samples] if self.scheduler == "pbt" else []
        digest = hashlib.sha256(strictjson.dumps(what).encode()).hexdigest()[:8]
        return f"sweep-{self.base.title}-{digest}"

    @property
    def uri(self) -> str:
        """Where the sweep keeps its trials and pictures; their runs lie beside it."""
        return f"{self.base.run.uri}/{self.name}"

    def identified(self) -> Sweep:
        """Named after the dataset itself, wherever it lies."""
        return replace(self, base=self.base.identified(), trial=self.trial.identified())

    @property
    def metric(self) -> str:
        return "psnr" if self.base.validation.uri else "loss"

    @property
    def benchmark(self) -> dict[str, str]:
        """The digests of the images that trials are scored on, as they are now; none where they are compared by loss."""
        return read_digests(self.base.validation, self.base.model.drawn)

    @property
    def mode(self) -> str:
        return "max" if self.base.validation.uri else "min"

    def run_name(self, values: Mapping[str, Any]) -> str:
        """The name of the run of a trial, made of its configuration."""
        return f"{self.name}-{override(self.trial, values).digest[:8]}"

    def settings(self) -> dict[str, Any]:
        """What a tracker stores of the sweep."""
        asked = {"sampler": self.sampler, "scheduler": self.scheduler, "samples": self.samples}
        return asked | {f"search.{key}": text for key, text in describe(self.space).items()}


def plan(
    file: str | None,
    overrides: Sequence[str],
    *,
    space: str | None = None,
    ranges: Sequence[str] = (),
    sampler: str = "random",
    scheduler: str = "asha",
    samples: int | None = None,
    steps: int = 1000,
    generations: int = 4,
    seed: int = 1,
    concurrent: int | None = None,
) -> Sweep:
    """The sweep around a base configuration.

    Args:
        file, overrides: the base, as in ``load_config``.
        space, ranges: as in ``make_space``; without either, ``edsr``, or ``lr`` of a population.
        sampler: ``random``, ``grid``, ``tpe`` or ``gp``. scheduler: ``asha``, ``none`` or ``pbt``.
        samples: trials; None is 8, or all of a grid. steps: of a whole trial. seed: of the draws.
        generations: parts of the steps, between which a population is chosen anew.
        concurrent: trials at a time; None is what the cluster holds.

    Raises ConfigError for an invalid configuration, an unknown space, keys that cannot be searched, and numbers below 1.
    """
    for name, value, choices in (
        ("sampler", sampler, tuple(SAMPLERS)),
        ("scheduler", scheduler, get_args(Scheduler)),
    ):
        if value not in choices:
            raise ConfigError(f"unknown {name} {value!r}; use one of {', '.join(choices)}")
    is_population = scheduler == "pbt"
    default = "" if ranges else "lr" if is_population else "edsr"
    searched = make_space(default if space is None else space, ranges)
    if samples is None:
        samples = len(grid(searched)) if sampler == "grid" else 8
    check_counts(samples=samples, steps=steps, generations=generations)
    base = load_config(file, overrides).resolved()
    if is_population:
        if sampler != "random":
            raise ConfigError(
                f"a population starts at random, not by {sampler}; use sampler=random"
            )
        if steps % generations:
            raise ConfigError(f"steps {steps} cannot be divided into {generations} generations")
        population.check_space(searched, base.optimizer.schedule)
    # Eight reports let ASHA stop a trial at an eighth of its steps; each costs a validation.
    often = steps // generations if is_population else max(1, steps // 8)
    trial = override(
        base,
        {
            "optimizer.steps": steps,
            "validation.every": often,
            "validation.images": 0,
            "checkpoint.every": often,
            "checkpoint.keep": 1,
            "workers.max_failures": 1,
        },
    )
    check_keys(trial, searched, seed)
    return Sweep(
        base, trial, searched, samples, seed, concurrent, sampler,
        cast(Scheduler, scheduler), generations if is_population else 1,
    )  # fmt: skip


def check_keys(trial: TrainConfig, space: Space, seed: int) -> None:
    """Raise ConfigError where the configuration does not take what may be drawn: an unknown key, an end out of limits."""
    values = draw(space, Draws(seed))
    for parameter in space:
        section, _, name = parameter.key.partition(".")
        if section in ("run", "logging", "workers", "validation", "checkpoint") or not name:
            raise ConfigError(f"{parameter.key} cannot be searched: it does not decide the weights")
        ends = parameter.choices or (parameter.draw(Lowest()), parameter.draw(Highest()))
        for end in ends:
            override(trial, {**values, parameter.key: end})


class Lowest(Draws):
    """Draws the first of every range."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return low

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        return low


class Highest(Draws):
    """Draws the last of every range."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return high

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        return high


def override(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration with ``section.key`` values replaced."""
    nested = config.model_dump(mode="json")
    for key, value in values.items():
        section, _, name = key.partition(".")
        if name:
            nested.setdefault(section, {})[name] = value
        else:
            nested[section] = value
    return TrainConfig.parse(nested)


def best_config(sweep: Sweep, best: dict[str, Any]) -> TrainConfig:
    """The base with the best values: as long as the base says, not as short as a trial, under its own name.

    The dataset may be another, as that of a sweep is often a small one.
    """
    return override(sweep.base, best["values"] | {"run.name": None, "data.digest": None})


def room(sweep: Sweep, cluster: Mapping[str, float]) -> tuple[int, dict[str, Any]]:
    """How many trials at a time, and what each of their workers reserves: never more than there is.

    A trial waits inside its own small share for its workers. If the trials took what the workers need,
    nobody would ever start.
    """
    workers = sweep.trial.workers.count
    cpus = max(cluster.get("CPU", 1.0), 0.5)
    gpus = cluster.get("GPU", 0)
    part = sweep.trial.workers.gpu_share
    gpu = wants_gpus(sweep.trial.workers.gpu, gpus / part, workers)
    fitting = gpus / part + 1e-6 if gpu else cpus / 2
    concurrent = sweep.concurrent or max(1, min(sweep.samples, int(fitting // workers)))
    share = (cpus / concurrent - TRIAL_CPU) / workers
    if share < 0.01:
        raise ConfigError(
            f"too few CPUs ({cpus:g}) for {quantity(concurrent, 'trial')} of {quantity(workers, 'worker')} at once; run fewer (concurrent)"
        )
    reserved = {"workers.cpus": min(1.0, int(100 * share) / 100), "workers.gpu": gpu}
    threads = sweep.trial.workers.threads or max(1, int(cpus / concurrent / workers))
    return concurrent, reserved | {"workers.threads": threads}


def rank(sweep: Sweep, trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """A row per trial (the values, the last figures, ``state``, ``error``, ``run``): the best first, those that failed last.

    Figures after fewer steps are not compared with those after all: trials that were stopped come after those that are
    complete. A trial that failed after good figures (a loss that became NaN) has failed: its values cannot be trained
    with.
    """
    sign = -1 if sweep.mode == "max" else 1
    rows = [row_of(trial, sweep.metric) for trial in trials]
    order = ("complete", "stopped", "running", "failed")
    return sorted(
        rows,
        key=lambda row: (
            order.index(row["state"]),
            0.0 if row["error"] else sign * row[sweep.metric],
        ),
    )


def row_of(trial: Trial, metric: str) -> dict[str, Any]:
    """What became of a trial; without a finite ``metric`` it has failed."""
    last = trial.reports[-1] if trial.reports else {}
    lines = trial.error.strip().splitlines() or [""]
    error, state = lines[-1], trial.state
    if state == "failed" and not error:
        error = "it ended without a reason"
    if state != "failed" and trial.figure(metric) is None:
        error, state = f"no finite {metric}: {last.get(metric, 'it was not measured')}", "failed"
    return {
        "values": dict(trial.values), "error": error, "state": state, "run": trial.name,
        "number": trial.number, **last,
    }  # fmt: skip
