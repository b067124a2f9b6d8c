"""What a key may ask for in a minute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from rayscale.serving.errors import QuotaError
from rayscale.serving.keys import Key


@dataclass
class _Bucket:
    left: float
    filled: float  # when


class Quotas:
    """Counts requests and megapixels of every key in token buckets: what a minute allows may come at once, then as it fills again.

    An image larger than the allowance of a minute finds room in a full bucket, and later ones pay for it. A batch is
    never cut short: it is charged for what it has done, and its key waits until that is paid.

    All ingresses of a service ask the same counter, so its methods are coroutines; see ``rayscale.serving.app``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    async def take_request(self, key: Key) -> None:
        """One more request. Raises QuotaError."""
        self._take(key, "requests", key.requests_per_minute, 1.0)

    async def take_megapixels(self, key: Key, megapixels: float) -> None:
        """A source of so many; 0 asks whether earlier ones are paid. Raises QuotaError."""
        self._take(key, "megapixels", key.megapixels_per_minute, megapixels)

    async def charge(self, key: Key, megapixels: float) -> None:
        """Sources of so many were enlarged in a batch."""
        allowed = key.megapixels_per_minute
        if allowed is not None:
            self._filled(key, "megapixels", allowed).left -= megapixels

    def _take(self, key: Key, what: str, allowed: float | None, amount: float) -> None:
        if allowed is None:
            return
        bucket = self._filled(key, what, allowed)
        needed = min(amount, allowed)
        if bucket.left < needed:
            wait = math.ceil((needed - bucket.left) * 60 / allowed)
            raise QuotaError(
                f"the key {key.id} may send {allowed:g} {what} a minute ({what}_per_minute)", wait
            )
        bucket.left -= amount

    def _filled(self, key: Key, what: str, allowed: float) -> _Bucket:
        """The bucket with what has come into it until now."""
        now = self._clock()
        bucket = self._buckets.setdefault((key.id, what), _Bucket(allowed, now))
        bucket.left = min(allowed, bucket.left + (now - bucket.filled) * allowed / 60)
        bucket.filled = now
        return bucket
