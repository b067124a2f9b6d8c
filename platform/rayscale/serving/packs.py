"""Small pictures of different requests through a network together, for devices that one of them would leave idle.

Every pass has the same number of pictures, the last one repeated where there are fewer: libraries choose their kernels by the
shape of a batch, and sums in another order would round otherwise. So a picture comes out the same whoever came with it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from rayscale.imaging import Image
from rayscale.inference.pipeline import Pipeline
from rayscale.inference.predictor import Predictor
from rayscale.inference.upscaler import Upscaled

PACK = 8
"""Pictures on a GPU, where nothing else is set."""

_LARGEST = 512 * 512
"""Pixels of a picture that leaves room for others."""

_WAIT_S = 0.005


@dataclass(eq=False)
class _Pack:
    """Pictures that wait for each other; ``larger`` stays None where they have to go alone."""

    images: list[Image] = field(default_factory=list)
    full: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    larger: list[Upscaled] | None = None


class Packs:
    """Joins what threads enlarge at the same time.

    Args:
        size: pictures of a pass; 1 joins none. wait_s: for which the first one waits for others.
    """

    def __init__(self, size: int, wait_s: float = _WAIT_S) -> None:
        self.size = size
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._open: dict[tuple[Predictor, tuple[int, ...]], _Pack] = {}

    def enlarge(self, pipeline: Pipeline, image: Image) -> Upscaled:
        """:meth:`Pipeline.enlarge`, in one pass with others of the same model, options and shape. Raises its errors."""
        if self.size < 2 or not _is_joinable(pipeline, image):
            return pipeline.enlarge(image)
        key = (pipeline.upscaler.predictor, image.pixels.shape)
        with self._lock:
            pack = self._open.setdefault(key, _Pack())
            at = len(pack.images)
            pack.images.append(image)
            if len(pack.images) == self.size:
                del self._open[key]
                pack.full.set()
        if at == 0:
            self._lead(key, pack, pipeline)
        else:
            pack.done.wait()
        # Alone where the pass failed: the fault, or the client that left, is that of one of them.
        return pipeline.enlarge(image) if pack.larger is None else pack.larger[at]

    def _lead(
        self, key: tuple[Predictor, tuple[int, ...]], pack: _Pack, pipeline: Pipeline
    ) -> None:
        pack.full.wait(self._wait_s)
        with self._lock:
            if self._open.get(key) is pack:
                del self._open[key]
        filler = [pack.images[-1]] * (self.size - len(pack.images))
        try:
            pack.larger = pipeline.enlarge_many([*pack.images, *filler])[: len(pack.images)]
        except Exception:
            pack.larger = None
        finally:
            pack.done.set()


def _is_joinable(pipeline: Pipeline, image: Image) -> bool:
    options, upscaler = pipeline.options, pipeline.upscaler
    return (
        not (options.ensemble or options.consistency or options.uncertainty)
        and not upscaler.predictor.model.linear
        and image.pixels.dtype == np.uint8
        and image.pixels.ndim == 3
        and image.width * image.height <= _LARGEST
        and not (image.levels or image.missing or image.labels or image.alpha is not None)
    )
