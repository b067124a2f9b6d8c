"""The passes of a pool over what its actors may lose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rayscale.batch.pool import Pool

_BLOCK = 4


class Brittle(Pool):
    """Of each pass it loses the blocks with a deadly item, and without retries the item behind one as well."""

    def __init__(self, deadly: set[str]) -> None:
        self.deadly = deadly
        self.passes: list[tuple[list[str], int, int]] = []

    def _pass(
        self, actor: type, arguments: tuple[Any, ...], items: list[str], block: int, retries: int
    ) -> Iterator[list[str]]:
        self.passes.append((items, block, retries))
        behind = False
        for start in range(0, len(items), block):
            part = items[start : start + block]
            dies = bool(self.deadly.intersection(part))
            if not dies and not (behind and not retries):
                yield part
            behind = dies

    def made(self, items: str) -> str:
        """Of ``items``, what its passes make."""
        left = list(items)
        for texts in self._passes(object, (), lambda: list(left), _BLOCK):
            for text in texts:
                left.remove(text)
        return "".join(item for item in items if item not in left)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("items", "deadly", "passes"),
    [
        ("abcdefgh", "", 1),
        ("abcd", "d", 3),  # in its block, alone, and with none before it
        ("abcdefgh", "c", 4),  # d, behind c, takes a pass of its own as well
        ("abcdefgh", "bcf", 7),  # and g does
        ("abcdefgh", "aceg", 10),
        ("a", "a", 3),
        ("", "", 0),
    ],
)
def test_only_what_kills_its_actor_is_lost(items: str, deadly: str, passes: int) -> None:
    pool = Brittle(set(deadly))
    assert pool.made(items) == "".join(item for item in items if item not in deadly)
    assert len(pool.passes) == passes
    assert all((block, retries) == (1, 0) for _, block, retries in pool.passes[1:])
