"""Batches of training patches, by step; and the thread that makes them ahead of the training loop."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from rayscale.data.cache import DamagedShardError
from rayscale.data.dataset import Dataset
from rayscale.data.sampler import draws, row_at, rows_from, share
from rayscale.degradations import Degradation, draw
from rayscale.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

T = TypeVar("T")

_AHEAD = 16
"""Steps whose shards are fetched before they are asked for."""

Pixels = npt.NDArray[Any]
Random = np.random.Generator


class PatchStream:
    """Random aligned patches of a dataset, flipped and transposed alike: a pure function of ``(seed, step)``.

    ``patch`` is the LR side in pixels, ``batch`` the global number of patches in a step, of which worker ``rank``
    of ``world`` makes a contiguous part, equal within one patch: put together, the parts are the same batch for any
    ``world``. Sub-images smaller than the patch are left out, and a warning counts them. The shards of the next steps
    are fetched ahead.

    Where a shard is damaged in storage (it was fetched again), another row takes the place of each of its rows: of the
    same slot where it has one. That depends on what is stored alone, so that all workers and a resumed run leave out the same; ``dataset``
    counts it.

    LR is what the dataset stores. With ``degradation``, and where that of the dataset draws, it is made of HR for each
    patch anew, with its surroundings as far as the sub-image has them and with the draw of (seed, step, slot).

    Raises ``ConfigError`` when there are more workers than patches, no sub-image is large enough, or patches cannot be
    degraded. Not for use by several threads at once.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        patch: int = 48,
        batch: int = 16,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        degradation: Degradation | None = None,
    ) -> None:
        if patch < 1 or batch < 1:
            raise ConfigError(f"patch {patch} and batch {batch} must both be at least 1")
        if not 1 <= world <= batch:
            raise ConfigError(
                f"a batch of {batch} patches cannot be shared by {world} workers; make data.batch at least {world}, or take "
                "fewer workers"
            )
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} is not one of {world} workers (0 to {world - 1})")
        self._degradation = _find_degradation(dataset, degradation)
        need = patch * dataset.scale
        sizes = dataset.sizes
        self._rows = np.flatnonzero(sizes.min(axis=1) >= need).tolist()
        if not self._rows:
            raise ConfigError(
                f"none of the {len(sizes)} sub-images of {dataset.uri} is {need} HR pixels wide and high, which "
                f"patches of {patch} at x{dataset.scale} need; take a smaller patch or prepare with a larger size"
            )
        if rank == 0 and len(self._rows) < len(sizes):
            logger.warning(
                "%d of the %d sub-images of %s are smaller than %d HR pixels and are left out: patches of %d at x%g need that; "
                "take a smaller data.patch to use them",
                len(sizes) - len(self._rows), len(sizes), dataset.uri, need, patch, dataset.scale,
            )  # fmt: skip
        self.dataset, self.patch, self.batch_size, self.seed = dataset, patch, batch, seed
        self.slots = range(rank * batch // world, (rank + 1) * batch // world)
        self._expected = 0  # steps before this one were looked at

    @property
    def rows(self) -> int:
        """Sub-images that take part, over all workers."""
        return len(self._rows)

    def shards(self) -> dict[str, int]:
        """The shard files that this worker reads, and their bytes; nothing is fetched."""
        shares = [
            share(self.rows, self.batch_size, slot) for slot in (self.slots[0], self.slots[-1])
        ]
        return self.dataset.shards(self._rows[shares[0][0] : shares[1][1]])

    def rows_at(self, step: int) -> list[int]:
        """The dataset rows that this worker draws at ``step``, in slot order; without those known to be damaged."""
        if not self.dataset.damaged:
            return [
                self._rows[row_at(self.seed, step, slot, rows=self.rows, batch=self.batch_size)]
                for slot in self.slots
            ]
        return [self._readable_row(step, slot) for slot in self.slots]

    def _readable_row(self, step: int, slot: int) -> int:
        damaged = self.dataset.damaged
        for number in rows_from(self.seed, step, slot, rows=self.rows, batch=self.batch_size):
            if self.dataset.place(self._rows[number])[0] not in damaged:
                return self._rows[number]
        raise StorageError(
            f"every shard of {self.dataset.uri} is damaged; prepare the dataset again"
        )

    def _read(self, step: int) -> list[tuple[Pixels, Pixels]]:
        """The rows of ``step``, with others in the place of those that are damaged; those of later steps are on their way."""
        while True:
            try:
                pairs = self.dataset.pairs(self.rows_at(step))
                break
            except DamagedShardError as error:
                lost = self.dataset.left_out
                logger.warning(
                    "%s; left out: %d shards with %d sub-images",
                    error,
                    len(lost),
                    sum(lost.values()),
                )
        if not step < self._expected <= step + _AHEAD + 1:
            self._expected = step + 1
        for later in range(self._expected, step + _AHEAD + 1):
            self.dataset.expect(self.rows_at(later))
        self._expected = step + _AHEAD + 1
        return pairs

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This worker's part of the batch of ``step`` (from 0).

        Returns LR ``(n, C, patch, patch)`` and HR ``(n, C, s patch, s patch)``, contiguous, uint8 or uint16 as
        stored; n is ``batch / world``, rounded up or down.
        """
        import torch

        manifest, patch, scale = self.dataset.manifest, self.patch, self.dataset.scale
        wide = patch * scale
        dtype = np.uint8 if manifest.bits == 8 else np.uint16
        count = len(self.slots)
        lr_batch = np.empty((count, manifest.channels, patch, patch), dtype)
        hr_batch = np.empty((count, manifest.channels, wide, wide), dtype)
        chosen = draws(self.seed, step, self.batch_size)[self.slots.start : self.slots.stop]
        pairs = self._read(step)
        for index, ((lr, hr), drawn) in enumerate(zip(pairs, chosen, strict=True)):
            y, x = drawn.offset(hr.shape[1] // scale, hr.shape[2] // scale, patch)
            if self._degradation is None:
                low = lr[:, y : y + patch, x : x + patch]
            else:
                random = draw(self.seed, step, self.slots[index])
                low = degrade_patch(hr, (y, x), patch, scale, self._degradation, random)
            lr_batch[index] = drawn.turn(low)
            y, x = y * scale, x * scale
            hr_batch[index] = drawn.turn(hr[:, y : y + wide, x : x + wide])
        return torch.from_numpy(lr_batch), torch.from_numpy(hr_batch)


def _find_degradation(dataset: Dataset, wanted: Degradation | None) -> Degradation | None:
    """What makes LR patches; None where those of the dataset are read."""
    own = dataset.manifest
    if dataset.scale == 1 or (
        dataset.has_lr and (wanted is None or str(wanted) == own.degradation_name)
    ):
        return None
    degradation = wanted or own.degradation
    if degradation.needs_whole:
        raise ConfigError(
            f"{degradation} needs whole images, and patches are parts of them; prepare the dataset with degradation="
            f"{degradation}"
        )
    degradation.check(dataset.manifest.channels, (dataset.scale,))
    return degradation


def degrade_patch(
    hr: Pixels, place: tuple[int, int], patch: int, scale: int, how: Degradation, random: Random
) -> Pixels:
    """The LR patch ``(C, patch, patch)`` at ``place`` (top left, in LR pixels) of HR ``(C, sH, sW)``, which it is made of."""
    reach = how.reach(scale)
    spans, own = [], []
    for start, side in zip(place, hr.shape[1:], strict=True):
        first, last = max(0, start - reach), min(side // scale, start + patch + reach)
        spans.append(slice(first * scale, last * scale))
        own.append(slice(start - first, start - first + patch))
    around = np.moveaxis(hr[:, spans[0], spans[1]], 0, 2)
    return np.moveaxis(how.apply(around, scale, random)[own[0], own[1]], 2, 0)


class Prefetch(Generic[T]):
    """``make(start)``, ``make(start + 1)``, ... made by one background thread, at most ``depth`` ahead.

    An iterator and a context manager. An exception of ``make`` is raised to the consumer in its turn, after the
    results before it. ``close`` (or leaving the block) ends the thread and waits for it.
    """

    def __init__(
        self, make: Callable[[int], T], start: int = 0, stop: int | None = None, depth: int = 4
    ) -> None:
        if depth < 1:
            raise ConfigError(f"depth {depth} is not possible; at least 1 batch is made ahead")
        self._make, self._start, self._stop = make, start, stop
        self._ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        self._closed = threading.Event()
        self._finished = False
        self._thread = threading.Thread(target=self._work, name="rayscale-prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._finished or self._closed.is_set():
            raise StopIteration
        value, error = self._ready.get()
        if error is not None:
            self._finished = True
            raise error
        return value  # type: ignore[return-value]

    def close(self) -> None:
        """End the thread; what it made ahead is dropped. May be called again."""
        self._closed.set()
        while self._thread.is_alive():
            self._drain()  # the thread may wait for a free place
            self._thread.join(timeout=0.05)
        self._drain()

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        step = self._start
        try:
            while not self._closed.is_set() and (self._stop is None or step < self._stop):
                self._ready.put((self._make(step), None))
                step += 1
            self._ready.put((None, StopIteration()))
        except BaseException as error:  # whatever it is, it belongs to the consumer
            self._ready.put((None, error))

    def _drain(self) -> None:
        while True:
            try:
                self._ready.get_nowait()
            except queue.Empty:
                return
