"""What proposes the values of the next trial: at random, from a grid, or by Optuna from the trials so far.

No Ray here. Proposals never repeat a trial: a run is named after its values.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rayscale import strictjson
from rayscale.tuning.spaces import Space, Values, draw, grid

_TRIES = 100  # to draw values that no trial has
_ASKS = 5  # Optuna for such values


class Draws:
    """Draws that are a function of their seeds alone; the names are those of Optuna's trials."""

    def __init__(self, *seeds: int) -> None:
        self._random = np.random.default_rng(seeds)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number from ``low`` to ``high``; with ``log`` its logarithm is uniform."""
        if log:
            return float(math.exp(self._random.uniform(math.log(low), math.log(high))))
        return float(self._random.uniform(low, high))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        """One of ``low``, ``low + step``, ... up to ``high``."""
        return low + step * int(self._random.integers((high - low) // step + 1))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of ``choices``."""
        return choices[int(self._random.integers(len(choices)))]


class Sampler:
    """Proposes values that no trial has.

    ``mode`` is ``max`` or ``min``: which figures are better.
    """

    def __init__(self, space: Space, seed: int, mode: str) -> None:
        self.space, self.seed, self.mode = space, seed, mode
        self.known: set[str] = set()

    def propose(self, number: int) -> Values | None:
        """The values of trial ``number`` (from 0); None when there are no others."""
        values = self._propose(number)
        if values is not None:
            self.keep(values)
        return values

    def keep(self, values: Values) -> None:
        """Do not propose these again."""
        self.known.add(strictjson.dumps(values, sort_keys=True))

    def learn(self, values: Values, figure: float | None) -> None:
        """Take note of a trial that has ended with ``figure``, or None where it failed."""
        self.keep(values)

    def _propose(self, number: int) -> Values | None:
        raise NotImplementedError

    def _is_new(self, values: Values) -> bool:
        return strictjson.dumps(values, sort_keys=True) not in self.known


class RandomSampler(Sampler):
    """A function of (seed, number), so a sweep that is continued draws what it would have drawn."""

    def _propose(self, number: int) -> Values | None:
        drawn = (draw(self.space, Draws(self.seed, number, again)) for again in range(_TRIES))
        return next(filter(self._is_new, drawn), None) or self._rest()

    def _rest(self) -> Values | None:
        """What is left of a space that can be listed."""
        if not all(parameter.is_finite for parameter in self.space):
            return None
        return next(filter(self._is_new, grid(self.space)), None)


class GridSampler(Sampler):
    """Every combination once, in the order of ``spaces.grid``."""

    def _propose(self, number: int) -> Values | None:
        return next(filter(self._is_new, grid(self.space)), None)


class OptunaSampler(RandomSampler):
    """Tree-structured Parzen estimators (Bergstra et al. 2011) or a Gaussian process, as Optuna has them.

    A trial that failed counts as bad as the worst that has ended, so that its surroundings are left alone. One that was
    stopped early counts with its last figure.
    """

    def __init__(self, space: Space, seed: int, mode: str, kind: str) -> None:
        super().__init__(space, seed, mode)
        self.kind = kind
        self._figures: list[tuple[Values, float | None]] = []

    def learn(self, values: Values, figure: float | None) -> None:
        """Take note of a trial that has ended with ``figure``, or None where it failed."""
        super().learn(values, figure)
        self._figures.append((values, figure))

    def _propose(self, number: int) -> Values | None:
        import optuna

        with (
            warnings.catch_warnings()
        ):  # the Gaussian process and grouped estimators are "experimental"
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = self._study(number)
            drawn = (draw(self.space, study.ask()) for _ in range(_ASKS))
            return next(filter(self._is_new, drawn), None) or super()._propose(number)

    def _study(self, number: int) -> Any:
        """A study of the trials so far: no state but those, so a sweep can be continued anywhere."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        direction = "maximize" if self.mode == "max" else "minimize"
        study = optuna.create_study(sampler=self._optuna_sampler(number), direction=direction)
        add_trials(study, self.space, self._figures, self.mode)
        return study

    def _optuna_sampler(self, number: int) -> Any:
        import optuna

        seed = self.seed * 100_003 + number
        if self.kind == "gp":
            return optuna.samplers.GPSampler(
                seed=seed,
                deterministic_objective=True,
                n_startup_trials=min(8, 2 + len(self.space)),
            )
        # Over half of the trials of a small sweep would be random with the default of 10.
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, n_startup_trials=5
        )


def add_trials(
    study: Any, space: Space, figures: list[tuple[Values, float | None]], mode: str
) -> None:
    """Tell an Optuna study of trials; one without a figure is as bad as the worst."""
    import optuna

    found = [figure for _, figure in figures if figure is not None]
    if not found:
        return
    worst = min(found) if mode == "max" else max(found)
    for values, figure in figures:
        study.add_trial(
            optuna.trial.create_trial(
                params=values,
                distributions=_distributions(space, values),
                value=worst if figure is None else figure,
            )
        )


def _distributions(space: Space, values: Values) -> dict[str, Any]:
    import optuna

    recorder = optuna.trial.FixedTrial(values)
    draw(space, recorder)
    distributions: dict[str, Any] = recorder.distributions
    return distributions


SAMPLERS: dict[str, Callable[[Space, int, str], Sampler]] = {
    "random": RandomSampler,
    "grid": GridSampler,
    "tpe": partial(OptunaSampler, kind="tpe"),
    "gp": partial(OptunaSampler, kind="gp"),
}
