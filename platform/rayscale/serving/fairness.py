"""Whose turn it is: start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) between the callers of a service.

Each caller gets work in proportion to its weight, however much it asks for. A full queue refuses the caller who fills it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

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
    """

    def __init__(self, places: Callable[[], int], most_waiting: int) -> None:
        self._places = places
        self._most_waiting = most_waiting
        self.running = 0
        self._number = 0
        self._virtual = 0.0
        self._finish: dict[str, float] = {}
        self._heap: list[_Turn] = []
        self._waiting: defaultdict[str, list[_Turn]] = defaultdict(list)

    @property
    def waiting(self) -> int:
        """Pieces of work that wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(
        self, owner: str, *, weight: float = 1.0, cost: float = 1.0
    ) -> AsyncIterator[None]:
        """The time of one piece of work, when it is its turn. Raises OverloadedError when the queue is full of its owner's."""
        if self.waiting >= self._most_waiting and self.running >= self._places():
            self._make_room(owner)
        start = max(self._virtual, self._finish.get(owner, 0.0))
        self._finish[owner] = start + cost / weight
        self._number += 1
        turn = _Turn(start, self._number, owner, asyncio.get_running_loop().create_future())
        heapq.heappush(self._heap, turn)
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
                self._leave()  # it was granted just when its client left
            else:
                self._forget(turn)
            raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self.running -= 1
        self._grant()

    def _grant(self) -> None:
        while self._heap and self.running < self._places():
            turn = heapq.heappop(self._heap)
            if turn.granted.done():
                continue
            self._forget(turn)
            self._virtual = max(self._virtual, turn.start)
            self.running += 1
            turn.granted.set_result(None)
        if not self._heap and not self.running:
            self._finish.clear()  # nobody waits: what was is forgotten
            self._virtual = 0.0

    def _make_room(self, owner: str) -> None:
        """End the latest turn of whoever waits with the most; that is ``owner`` where all wait with as much."""
        most = max(self._waiting, key=lambda each: len(self._waiting[each]))
        if len(self._waiting[most]) <= len(self._waiting.get(owner, ())) + 1:
            raise self._full()
        latest = self._waiting[most][-1]
        self._forget(latest)
        latest.granted.set_exception(self._full())

    def _full(self) -> OverloadedError:
        return OverloadedError(
            f"all replicas are busy and {self.waiting} images wait, as many as may (RAYSCALE_SERVE_MAX_WAITING); send it "
            "again after the time in Retry-After"
        )

    def _forget(self, turn: _Turn) -> None:
        waiting = self._waiting.get(turn.owner, [])
        if turn in waiting:
            waiting.remove(turn)
        if not waiting:
            self._waiting.pop(turn.owner, None)
