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

    An image larger than the allowance of a minute finds room in a full bucket, and later ones pay for it.

    Args:
        share: of the allowance that is granted here; several ingresses share it.
    """

    def __init__(self, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def take_request(self, key: Key) -> None:
        """One more request. Raises QuotaError."""
        self._take(key, "requests", key.requests_per_minute, 1.0)

    def take_megapixels(self, key: Key, megapixels: float) -> None:
        """A source of so many. Raises QuotaError."""
        self._take(key, "megapixels", key.megapixels_per_minute, megapixels)

    def _take(self, key: Key, what: str, allowed: float | None, amount: float) -> None:
        if allowed is None:
            return
        most, now = allowed * self._share, self._clock()
        bucket = self._buckets.setdefault((key.id, what), _Bucket(most, now))
        bucket.left = min(most, bucket.left + (now - bucket.filled) * most / 60)
        bucket.filled = now
        needed = min(amount, most)
        if bucket.left < needed:
            wait = math.ceil((needed - bucket.left) * 60 / most)
            raise QuotaError(
                f"the key {key.id} may send {allowed:g} {what} a minute ({what}_per_minute)", wait
            )
        bucket.left -= amount
