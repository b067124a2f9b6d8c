"""What images took so far, for estimates of the next ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

_KEPT = 256
_FADE = 0.9
"""What is left of the weight of earlier images when one more comes: the last ten or so decide."""


@dataclass
class Rate:
    """Sums over images of one kind, faded.

    Attributes:
        images: how many there were, not faded.
        seconds, megapixels: of work, and of the outputs.
        source_bytes, output_bytes: of the files.
    """

    images: int = 0
    seconds: float = 0.0
    megapixels: float = 0.0
    source_bytes: float = 0.0
    output_bytes: float = 0.0


class Rates:
    """Rates by kind, such as model, options and container; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: OrderedDict[object, Rate] = OrderedDict()

    def note(
        self,
        kind: object,
        *,
        seconds: float,
        megapixels: float,
        source_bytes: int,
        output_bytes: int,
    ) -> None:
        """One more image was done."""
        with self._lock:
            rate = self._kinds.setdefault(kind, Rate())
            self._kinds.move_to_end(kind)
            rate.images += 1
            rate.seconds = _FADE * rate.seconds + seconds
            rate.megapixels = _FADE * rate.megapixels + megapixels
            rate.source_bytes = _FADE * rate.source_bytes + source_bytes
            rate.output_bytes = _FADE * rate.output_bytes + output_bytes
            if len(self._kinds) > _KEPT:
                self._kinds.popitem(last=False)

    def find(self, kind: object) -> Rate | None:
        """What is known of a kind; None when nothing is."""
        with self._lock:
            return self._kinds.get(kind)
