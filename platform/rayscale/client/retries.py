"""When a request is sent again: a service that is full or restarts says for how long to wait."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import httpx

_LONGEST_S, _LONGEST_UNTOLD_S = 60.0, 4.0
_STATUSES = (429, 503)


@dataclass
class Retries:
    """The attempts of one request.

    Every request of this client may be sent twice: enlarging changes nothing, and a batch has an idempotency key.
    """

    attempts: int
    made: int = field(default=0, init=False)

    def wait(self, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds until the next attempt; None when the outcome is the last one."""
        self.made += 1
        if self.made >= self.attempts:
            return None
        if isinstance(outcome, httpx.Response):
            if outcome.status_code not in _STATUSES:
                return None
            told = outcome.headers.get("retry-after", "")
            if told.isdigit():
                # What all clients wait for at once would come at once.
                return min(float(told), _LONGEST_S) * random.uniform(1.0, 1.25)
        return min(0.25 * 2.0**self.made, _LONGEST_UNTOLD_S) * random.uniform(0.5, 1.0)
