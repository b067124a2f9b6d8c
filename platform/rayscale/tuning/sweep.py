"""What a sweep is: the base of its trials, how many fit a cluster, and which of them is the best. No Ray here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rayscale import strictjson
from rayscale.cluster import wants_gpus
from rayscale.errors import ConfigError, quantity
from rayscale.fields import check_counts
from rayscale.training.config import TrainConfig, load_config
from rayscale.training.validation import read_digests
from rayscale.tuning.spaces import SPACES

TRIAL_CPU = 0.1  # of the process that waits for the workers of its trial


@dataclass(frozen=True)
class Sweep:
    """What is searched: the base of every trial, and how trials are compared."""

    base: TrainConfig
    trial: TrainConfig
    space: str
    samples: int
    seed: int
    concurrent: int | None

    @property
    def name(self) -> str:
        """A hash of what decides the trials."""
        what = [self.trial.digest, self.space, self.seed, self.trial.optimizer.steps]
        digest = hashlib.sha256(strictjson.dumps(what).encode()).hexdigest()[:8]
        return f"sweep-{self.base.title}-{digest}"

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


def plan(
    file: str | None,
    overrides: Sequence[str],
    *,
    space: str = "edsr",
    samples: int = 8,
    steps: int = 1000,
    seed: int = 1,
    concurrent: int | None = None,
) -> Sweep:
    """The sweep around a base configuration.

    Args:
        file, overrides: the base, as in ``load_config``.
        space: a name of ``rayscale.tuning.spaces.SPACES``.
        samples: trials. steps: of a whole trial. seed: of the draws.
        concurrent: trials at a time; None is what the cluster holds.

    Raises ConfigError for an invalid configuration, an unknown space, and numbers below 1.
    """
    check_counts(samples=samples, steps=steps)
    if space not in SPACES:
        raise ConfigError(f"unknown space {space!r}; use one of {', '.join(SPACES)}")
    base = load_config(file, overrides).resolved()
    # Eight reports let ASHA stop a trial at an eighth of its steps; each costs a validation.
    often = max(1, steps // 8)
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
    return Sweep(base, trial, space, samples, seed, concurrent)


def override(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration with ``section.key`` values replaced."""
    nested = config.model_dump(mode="json")
    for key, value in values.items():
        section, _, name = key.partition(".")
        nested[section][name] = value
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
    gpu = wants_gpus(sweep.trial.workers.gpu, gpus, workers)
    fitting = gpus if gpu else cpus / 2
    concurrent = sweep.concurrent or max(1, int(fitting // workers))
    share = (cpus / concurrent - TRIAL_CPU) / workers
    if share < 0.01:
        raise ConfigError(
            f"too few CPUs ({cpus:g}) for {quantity(concurrent, 'trial')} of {quantity(workers, 'worker')} at once; run fewer (concurrent)"
        )
    reserved = {"workers.cpus": min(1.0, int(100 * share) / 100), "workers.gpu": gpu}
    return concurrent, reserved | {"workers.threads": max(1, int(cpus / concurrent / workers))}


def rank(sweep: Sweep, results: Iterable[Any]) -> list[dict[str, Any]]:
    """A row per trial (the sampled values, the last figures, ``error``): the best first, those that failed last.

    A trial that failed after good figures (a loss that became NaN) has failed: its values cannot be trained with.
    """
    sign = -1 if sweep.mode == "max" else 1
    rows = [row_of(result, sweep.metric) for result in results]
    return sorted(rows, key=lambda row: (1, 0.0) if row["error"] else (0, sign * row[sweep.metric]))


def row_of(result: Any, metric: str) -> dict[str, Any]:
    """What became of a trial; without a finite ``metric`` it has failed."""
    figures = result.metrics or {}
    kept = {key: figures[key] for key in ("step", "loss", "psnr", "ssim") if key in figures}
    lines = str(result.error).strip().splitlines() if result.error else []
    if not lines and not math.isfinite(kept.get(metric, math.nan)):
        lines = [f"no finite {metric}: {kept.get(metric, 'it was not measured')}"]
    return {"values": dict(result.config or {}), "error": lines[-1] if lines else "", **kept}
