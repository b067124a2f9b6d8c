"""What proposes trials: nothing twice, nothing lost by a kill, and better than chance where it should be."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rayscale.tuning.population import change, first_generation, next_generation
from rayscale.tuning.samplers import SAMPLERS, Draws
from rayscale.tuning.spaces import Values, grid, make_space

LR = make_space("", ["optimizer.lr=log:1e-6:1:9"])
FINITE = make_space("", ["a.x=choice:1,2,3", "a.y=int:0:1"])


def score(values: Values) -> float:
    """A valley at a learning rate of 1e-3."""
    return (math.log10(values["optimizer.lr"]) + 3) ** 2


def run(kind: str, count: int, mode: str = "min", sign: int = 1) -> list[float]:
    sampler = SAMPLERS[kind](LR, 1, mode)
    found = []
    for number in range(count):
        values = sampler.propose(number)
        assert values is not None
        found.append(score(values))
        sampler.learn(values, sign * found[-1])
    return found


@pytest.mark.parametrize("kind", ["tpe", "gp"])
@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_optuna_looks_where_the_figures_are_good(kind: str, mode: str, sign: int) -> None:
    found, chance = run(kind, 16, mode, sign), run("random", 16)
    late = sorted(found[8:])
    assert late[len(late) // 2] < sorted(chance)[len(chance) // 2] / 2


@pytest.mark.parametrize("kind", list(SAMPLERS))
def test_every_trial_is_another_and_a_space_ends(kind: str) -> None:
    sampler = SAMPLERS[kind](FINITE, 1, "min")
    seen: list[Any] = []
    while (values := sampler.propose(len(seen))) is not None:
        sampler.learn(values, float(values["a.x"]))
        seen.append(values)
    assert len(seen) == 6
    assert all(each in seen for each in grid(FINITE))


@pytest.mark.parametrize("kind", list(SAMPLERS))
def test_a_sampler_that_starts_again_goes_on_as_it_would_have(kind: str) -> None:
    whole = SAMPLERS[kind](LR, 3, "min")
    rows = []
    for number in range(7):
        values = whole.propose(number)
        assert values is not None
        rows.append(values)
        whole.learn(values, score(values))
    again = SAMPLERS[kind](LR, 3, "min")
    for values in rows[:5]:
        again.learn(values, score(values))
    assert again.propose(5) == rows[5]


def test_where_trials_fail_optuna_looks_no_more() -> None:
    sampler = SAMPLERS["tpe"](LR, 1, "min")
    for number in range(20):
        values = sampler.propose(number)
        assert values is not None
        failed = values["optimizer.lr"] > 1e-3
        sampler.learn(values, None if failed else -math.log10(values["optimizer.lr"]))
    late = [sampler.propose(number) for number in range(20, 30)]
    assert sum(values["optimizer.lr"] > 1e-2 for values in late if values) <= 2


def test_the_worst_of_a_population_go_on_from_the_best() -> None:
    rows = [({"optimizer.lr": 10.0 ** -(i / 2)}, float(i)) for i in range(1, 8)]
    before: list[tuple[Values, float | None]] = [*rows, ({"optimizer.lr": 1.0}, None)]
    for mode, best, worst in (("max", {6, 5}, {0, 7}), ("min", {0, 1}, {6, 7})):
        members = next_generation(LR, 1, 1, before, mode)
        assert members == next_generation(LR, 1, 1, before, mode)
        for index, member in enumerate(members):
            if index in worst:
                assert member.parent in best
                ratio = member.values["optimizer.lr"] / before[member.parent][0]["optimizer.lr"]
                assert ratio == pytest.approx(0.8) or ratio == pytest.approx(1.2)
            else:
                assert (member.parent, member.values) == (index, before[index][0])


def test_changed_values_stay_in_their_ranges() -> None:
    import numpy as np

    space = make_space("", ["a.x=log:1e-3:1:2", "a.n=int:2:10:4", "a.c=choice:u,v", "a.d=uniform:0:1 if a.c=v"])  # fmt: skip
    random = np.random.default_rng(1)
    seen = set()
    for member in first_generation(space, 1, 40):
        values = member.values
        for _ in range(20):
            values = change(space, values, random)
            assert 1e-3 <= values["a.x"] <= 1
            assert values["a.n"] in (2, 6, 10)
            assert ("a.d" in values) == (values["a.c"] == "v")
            seen.add(values["a.c"])
    assert seen == {"u", "v"}


def test_draws_depend_on_their_seeds_alone() -> None:
    assert Draws(1, 2).suggest_float("a", 0, 1) == Draws(1, 2).suggest_float("b", 0, 1)
    assert Draws(1, 2).suggest_float("a", 0, 1) != Draws(2, 1).suggest_float("a", 0, 1)
