"""Threads that work in turn, strip by strip: whose owner has had least goes on, so that a short image overtakes long ones.

Fair sharing as in the Completely Fair Scheduler of Linux (Molnar 2007): an owner is charged the seconds that its images
were worked on, over its weight, and who comes back after a while is a little ahead of the others, not hours.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRAIN = 0.2
"""Seconds by which another must be behind to interrupt, and who comes anew is ahead: images of one are not cut into slices."""

_LOOK_S = 0.2
"""Between two looks whether anybody still waits for an image that is not worked on."""


class Turns:
    """Lets ``most`` threads work at once; the others wait, or are interrupted where they say they can be.

    Args:
        watch: called, unless None, while a thread waits, in that thread; what it raises ends its work.
        clock: in seconds.
    """

    def __init__(
        self,
        most: int,
        watch: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._free = most
        self._watch = watch
        self._clock = clock
        self._lock = threading.Lock()
        self._had: dict[str, float] = {}
        self._images: Counter[str] = Counter()
        self._waiting: list[_Turn] = []
        self._number = 0

    @property
    def waiting(self) -> int:
        """Images that wait for their turn, or gave way."""
        return len(self._waiting)

    @contextmanager
    def take(self, owner: str, weight: float = 1.0) -> Iterator[Callable[[], None]]:
        """The time of one image, from its first turn on; call what it gives wherever the work may be interrupted."""
        with self._lock:
            self._number += 1
            turn = _Turn(owner, weight, self._number)
            self._enter(owner)
            self._waiting.append(turn)
            self._grant()
        try:
            self._wait(turn)
            yield lambda: self._pause(turn)
        finally:
            with self._lock:
                self._leave(turn)

    def _enter(self, owner: str) -> None:
        active = [self._had[each] for each in self._images]
        ahead = min(active) - GRAIN if active else 0.0
        # What others had who are not here counts for as long as it keeps them behind.
        self._had = {
            each: had
            for each, had in self._had.items()
            if each in self._images or (active and had > ahead)
        }
        self._had.setdefault(owner, ahead)
        self._images[owner] += 1

    def _leave(self, turn: _Turn) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        else:
            self._charge(turn)
            self._free += 1
        self._images[turn.owner] -= 1
        if not self._images[turn.owner]:
            del self._images[turn.owner]
        self._grant()

    def _pause(self, turn: _Turn) -> None:
        with self._lock:
            self._charge(turn)
            least = min((self._had[each.owner] for each in self._waiting), default=None)
            if least is None or self._had[turn.owner] - least < GRAIN:
                return
            turn.goes.clear()
            self._free += 1
            self._grant()
            self._waiting.append(turn)
        self._wait(turn)

    def _charge(self, turn: _Turn) -> None:
        now = self._clock()
        self._had[turn.owner] += (now - turn.since) / turn.weight
        turn.since = now

    def _grant(self) -> None:
        while self._free and self._waiting:
            turn = min(self._waiting, key=lambda each: (self._had[each.owner], each.number))
            self._waiting.remove(turn)
            self._free -= 1
            turn.since = self._clock()
            turn.goes.set()

    def _wait(self, turn: _Turn) -> None:
        while not turn.goes.wait(_LOOK_S):
            if self._watch is not None:
                self._watch()


class _Turn:
    """One image.

    Attributes:
        number: of those that came before.
        since: when it was charged last.
        goes: set while it is worked on.
    """

    def __init__(self, owner: str, weight: float, number: int) -> None:
        self.owner = owner
        self.weight = weight
        self.number = number
        self.since = 0.0
        self.goes = threading.Event()
