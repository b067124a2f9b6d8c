from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayscale.data import sampler
from rayscale.data.sampler import draws, row_at, scale_at, share, steps_per_epoch


@given(rows=st.integers(1, 300), batch=st.integers(1, 40), seed=st.integers(0, 5))
def test_every_row_once_per_epoch(rows: int, batch: int, seed: int) -> None:
    steps = steps_per_epoch(rows, batch)
    for epoch in (0, 1, 7):
        full = Counter(
            row_at(seed, step, slot, rows=rows, batch=batch)
            for step in range(epoch * steps, (epoch + 1) * steps)
            for slot in range(batch)
        )
        assert set(full) == set(range(rows))
        # Before the last step, which is filled up, no row came twice.
        if rows >= batch:
            early = Counter(
                row_at(seed, step, slot, rows=rows, batch=batch)
                for step in range(epoch * steps, (epoch + 1) * steps - 1)
                for slot in range(batch)
            )
            assert max(early.values(), default=1) == 1
            assert sum(full.values()) - rows < batch


@given(rows=st.integers(1, 500), batch=st.integers(1, 64))
def test_shares_are_contiguous_balanced_and_complete(rows: int, batch: int) -> None:
    shares = [share(rows, batch, slot) for slot in range(batch)]
    assert all(0 <= first < last <= rows for first, last in shares)
    if rows >= batch:
        assert [row for first, last in shares for row in range(first, last)] == list(range(rows))
        lengths = [last - first for first, last in shares]
        assert max(lengths) - min(lengths) <= 1


def test_epochs_seeds_and_slots_differ() -> None:
    def epoch(seed: int, number: int, slot: int) -> list[int]:
        return [row_at(seed, number * 50 + n, slot, rows=100, batch=2) % 50 for n in range(50)]

    orders = [epoch(0, 0, 0), epoch(0, 1, 0), epoch(1, 0, 0), epoch(0, 0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_draws_depend_on_nothing_but_seed_and_step() -> None:
    assert draws(3, 1000, 16) == draws(3, 1000, 16)
    assert draws(3, 1000, 16) != draws(3, 1001, 16)
    assert draws(3, 1000, 16) != draws(4, 1000, 16)
    assert draws(-1, 0, 2) == draws(-1, 0, 2)


def test_crops_are_uniform_and_reach_the_borders() -> None:
    found = Counter(draw.offset(10, 50, 8) for step in range(3000) for draw in draws(0, step, 4))
    assert set(found) == {(y, x) for y in range(3) for x in range(43)}
    expected = 12000 / len(found)
    chi_square = sum((count - expected) ** 2 / expected for count in found.values())
    assert chi_square < len(found) + 4 * (2 * len(found)) ** 0.5


def test_the_eight_symmetries_come_equally_often() -> None:
    mark = np.arange(4).reshape(1, 2, 2)
    found = Counter(draw.turn(mark).tobytes() for step in range(1000) for draw in draws(0, step, 8))
    assert len(found) == 8
    assert all(abs(count - 1000) < 150 for count in found.values())


def test_scale_of_a_step() -> None:
    found = [scale_at(0, step, (2, 3, 4)) for step in range(3000)]
    assert found == [scale_at(0, step, (2, 3, 4)) for step in range(3000)]
    assert all(abs(count - 1000) < 150 for count in Counter(found).values())
    assert set(found) == {2, 3, 4}


def test_the_random_numbers_of_one_purpose_tell_nothing_of_another() -> None:
    """One seed, step and slot: order, crops and scales come from streams of their own."""
    values = {
        purpose: tuple(sampler._random(7, purpose, 3).random(4))
        for purpose in (sampler._PERMUTE, sampler._AUGMENT, sampler._SCALE)
    }
    assert len({value for some in values.values() for value in some}) == 12
