"""Whose turn it is: start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) between the callers of a service.

Each caller gets work in proportion to its weight, however much it asks for. A full queue refuses the caller who fills it.
Whoever has nothing at work need not wait until something of others is done: the model replicas interrupt that (``turns``).
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from rayscale.errors import quantity
from rayscale.serving.errors import OverloadedError


@dataclass(order=True)
class _Turn:
    start: float
    number: int
    owner: str = field(compare=False)
    granted: asyncio.Future[None] = field(compare=False)


class FairQueue:
    """Lets ``places()`` pieces of work go at once and ``most_waiting`` wait.

    Args:
        places: asked at every turn, as replicas come and go.
        most_waiting: RAYSCALE_SERVE_MAX_WAITING.
        spare: places beyond these, of one piece for each owner who has nothing at work.
    """

    def __init__(
        self,
        places: Callable[[], int],
        most_waiting: int,
        spare: Callable[[], int] = lambda: 0,
    ) -> None:
        self._places = places
        self._most_waiting = most_waiting
        self._spare = spare
        self._at_work: Counter[str] = Counter()
        self._number = 0
        self._virtual = 0.0
        self._finish: dict[str, float] = {}
        self._waiting: defaultdict[str, list[_Turn]] = defaultdict(list)

    @property
    def running(self) -> int:
        """Pieces of work whose turn it is."""
        return self._at_work.total()

    @property
    def waiting(self) -> int:
        """Pieces of work that wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(
        self, owner: str, *, weight: float = 1.0, cost: float = 1.0
    ) -> AsyncIterator[None]:
        """The time of one piece of work, when it is its turn. Raises OverloadedError when the queue is full of its owner's."""
        if self._is_full(owner):
            self._make_room(owner)
        start = max(self._virtual, self._finish.get(owner, 0.0))
        self._finish[owner] = start + cost / weight
        self._number += 1
        turn = _Turn(start, self._number, owner, asyncio.get_running_loop().create_future())
        self._waiting[owner].append(turn)
        self._grant()
        try:
            await turn.granted
        except BaseException:
            if (
                turn.granted.done()
                and not turn.granted.cancelled()
                and not turn.granted.exception()
            ):
                self._leave(owner)  # it was granted just when its client left
            else:
                self._forget(turn)
            raise
        try:
            yield
        finally:
            self._leave(owner)

    def check(self, owner: str) -> None:
        """Raise OverloadedError where :meth:`turn` would, before anything is done for the work."""
        if self._is_full(owner):
            self._find_most(owner)

    def _is_full(self, owner: str) -> bool:
        return self.waiting >= self._most_waiting and not self._has_place(owner)

    def _leave(self, owner: str) -> None:
        self._at_work[owner] -= 1
        if not self._at_work[owner]:
            del self._at_work[owner]
        self._grant()

    def _has_place(self, owner: str) -> bool:
        places = self._places()
        if owner not in self._at_work:
            places += self._spare()
        return self.running < places

    def _grant(self) -> None:
        while (turn := self._next()) is not None:
            self._forget(turn)
            self._virtual = max(self._virtual, turn.start)
            self._at_work[turn.owner] += 1
            turn.granted.set_result(None)
        if not self._waiting and not self.running:
            self._finish.clear()  # nobody waits: what was is forgotten
            self._virtual = 0.0

    def _next(self) -> _Turn | None:
        """The earliest turn that has a place; those of one owner wait in their order."""
        open_ones = (
            next((turn for turn in turns if not turn.granted.done()), None)
            for owner, turns in self._waiting.items()
            if self._has_place(owner)
        )
        return min((turn for turn in open_ones if turn is not None), default=None)

    def _make_room(self, owner: str) -> None:
        """End the latest turn of whoever waits with the most. Raises OverloadedError where that is ``owner``."""
        latest = self._waiting[self._find_most(owner)][-1]
        self._forget(latest)
        latest.granted.set_exception(self._full())

    def _find_most(self, owner: str) -> str:
        """Who waits with the most. Raises OverloadedError where that is ``owner``, also where all wait with as much."""
        most = max(self._waiting, key=lambda each: len(self._waiting[each]))
        if len(self._waiting[most]) <= len(self._waiting.get(owner, ())) + 1:
            raise self._full()
        return most

    def _full(self) -> OverloadedError:
        return OverloadedError(
            f"all replicas are busy with {quantity(self.waiting, 'image')} waiting, as many as may (RAYSCALE_SERVE_MAX_WAITING); send it "
            "again after the time in Retry-After"
        )

    def _forget(self, turn: _Turn) -> None:
        waiting = self._waiting.get(turn.owner, [])
        if turn in waiting:
            waiting.remove(turn)
        if not waiting:
            self._waiting.pop(turn.owner, None)
