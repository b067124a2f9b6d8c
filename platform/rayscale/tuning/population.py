"""Population based training (Jaderberg et al. 2017), a generation at a time: who goes on from whose checkpoint, with what values.

Every generation is a function of the seed and the figures of the one before. A sweep that was killed comes to the same
population again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayscale.errors import ConfigError
from rayscale.tuning.samplers import Draws, RandomSampler
from rayscale.tuning.spaces import Parameter, Space, Values, draw

_SHARE = 4  # of the population: a quarter is replaced by copies of the best quarter
_FACTORS = (0.8, 1.2)
_REDRAWN = 0.25  # of the values without an order
_CHANGEABLE = ("optimizer.", "adversarial.", "guard.")
_FIXED = ("optimizer.steps", "optimizer.algorithm", "optimizer.ema")


@dataclass(frozen=True)
class Member:
    """One of a generation: its values, and the index in the generation before whose checkpoint it goes on from."""

    values: Values
    parent: int | None = None


def check_space(space: Space, schedule: str) -> None:
    """Raise ConfigError for keys that cannot change during a training, and for a schedule that needs its end."""
    wrong = [p.key for p in space if not p.key.startswith(_CHANGEABLE) or p.key in _FIXED]
    if wrong:
        raise ConfigError(
            f"population based training changes values while it trains, which {', '.join(wrong)} cannot; search keys of "
            "optimizer, such as space=lr"
        )
    if schedule != "step":
        raise ConfigError(
            f"population based training changes the rate itself, so optimizer.schedule cannot be {schedule}; set it to step"
        )


def first_generation(space: Space, seed: int, size: int) -> list[Member]:
    """Drawn at random."""
    sampler = RandomSampler(space, seed, "max")
    return [
        Member(sampler.propose(number) or draw(space, Draws(seed, number)))
        for number in range(size)
    ]


def next_generation(
    space: Space, seed: int, number: int, members: Sequence[tuple[Values, float | None]], mode: str
) -> list[Member]:
    """Generation ``number`` of the values and figures of the one before; a figure of None is a member that failed.

    The worst quarter, and all that failed, go on from one of the best quarter, with values that are changed a little.

    Raises ConfigError where all have failed.
    """
    sign = -1.0 if mode == "max" else 1.0
    ranked = sorted(
        (index for index, (_, figure) in enumerate(members) if figure is not None),
        key=lambda index: sign * (members[index][1] or 0.0),
    )
    if not ranked:
        raise ConfigError("all members of the population failed; search smaller learning rates")
    quarter = max(1, len(members) // _SHARE)
    best = ranked[:quarter]
    good = ranked if len(ranked) <= quarter else ranked[: len(members) - quarter]
    made = []
    for index, (values, _) in enumerate(members):
        if index in good:
            made.append(Member(values, index))
            continue
        random = np.random.default_rng((seed, number, index))
        parent = best[int(random.integers(len(best)))]
        made.append(Member(change(space, members[parent][0], random), parent))
    return made


def change(space: Space, values: Values, random: np.random.Generator) -> Values:
    """Values a little beside others: numbers by a factor of 0.8 or 1.2 within their range, others drawn anew at times."""
    changed: Values = {}
    for parameter in space:
        if parameter.applies(changed):
            old = values.get(parameter.key)
            changed[parameter.key] = _change(parameter, old, random)
    return changed


def _change(parameter: Parameter, old: object, random: np.random.Generator) -> object:
    factor = _FACTORS[int(random.integers(len(_FACTORS)))]
    redrawn = parameter.draw(Draws(int(random.integers(2**31))))
    if old is None or (parameter.kind == "choice" and random.random() < _REDRAWN):
        return redrawn
    if parameter.kind == "choice":
        return old
    assert isinstance(old, float | int)
    new = min(parameter.high, max(parameter.low, old * factor))
    if parameter.kind == "int":
        step = parameter.count or 1
        return int(parameter.low) + round((new - parameter.low) / step) * step
    return new
