"""A prepared dataset at one scale, opened for reading: rows of aligned LR and HR sub-images."""

from __future__ import annotations

import errno
import logging
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayscale.data.cache import DamagedShardError, ShardCache
from rayscale.data.manifest import Column, Manifest, dataset_store
from rayscale.data.ranged import RangedColumn
from rayscale.data.shards import open_shard
from rayscale.errors import ConfigError
from rayscale.storage.local import LocalStore

Pixels = npt.NDArray[Any]

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_DOWNLOADS = 4  # files at a time; more would only share the same link
_READS = 8  # rows at a time


@dataclass(frozen=True)
class _Open:
    lr: Sequence[Pixels]
    hr: Sequence[Pixels]
    files: tuple[Path, ...]


class Dataset:
    """The HR and one LR column of a dataset; shards come through the cache when first touched.

    ``uri`` is the root of the dataset or the address of its ``manifest.json``. At scale 1 there is HR alone, which
    stands for LR too, and so it does where LR is not read: without ``lr``, and in datasets whose degradation draws.
    Raises ``ConfigError`` for a scale that was not prepared. Not for use by several threads at once.
    """

    def __init__(
        self, uri: str | Path, scale: int, cache: ShardCache | None = None, *, lr: bool = True
    ) -> None:
        self._store = dataset_store(uri)
        self.manifest = Manifest.load(self._store)
        if scale != 1 and scale not in self.manifest.scales:
            raise ConfigError(
                f"{self._store.uri} was prepared for the scales {self.manifest.scales}, not for {scale}; "
                f"prepare it again with the scales {' '.join(map(str, (*self.manifest.scales, scale)))}"
            )
        self.uri = self._store.uri
        self.scale = scale
        self.has_lr = lr and scale != 1 and not self.manifest.degradation.is_random
        self.cache = cache or ShardCache()
        self._ends = list(accumulate(shard.rows for shard in self.manifest.shards))
        self._open: dict[int, _Open] = {}
        self._coming: dict[int, Future[_Open]] = {}
        self._ranged: set[str] = set()
        self._workers = ThreadPoolExecutor(_DOWNLOADS, "rayscale-shards")
        self._readers = ThreadPoolExecutor(_READS, "rayscale-rows")
        self.damaged: set[int] = set()
        """Shards whose stored bytes are damaged, as far as they were asked for."""

    @property
    def cached(self) -> bool:
        """Whether shards are copied to this machine; those of a local folder are used in place."""
        return not isinstance(self._store, LocalStore)

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """HR height and width of every row, ``(rows, 2)``; nothing is fetched."""
        runs = np.array([run for shard in self.manifest.shards for run in shard.sizes], np.int64)
        return np.repeat(runs[:, :2], runs[:, 2], axis=0)

    def place(self, row: int) -> tuple[int, int]:
        """Shard of a row and its number there."""
        shard = bisect_right(self._ends, row)
        return shard, row - (self._ends[shard - 1] if shard else 0)

    def shards(self, rows: Iterable[int]) -> dict[str, int]:
        """The files that hold these rows, both columns, and their bytes."""
        shards = {self.place(row)[0] for row in rows}
        return {column.key: column.bytes for shard in shards for column in self._columns(shard)}

    def pair(self, row: int) -> tuple[Pixels, Pixels]:
        """One row: read-only views LR ``(C, h, w)`` and HR ``(C, s h, s w)``, uint8 or uint16."""
        return self.pairs([row])[0]

    def pairs(self, rows: Iterable[int]) -> list[tuple[Pixels, Pixels]]:
        """Several rows; shards that are missing are fetched side by side.

        Raises ``DamagedShardError``, after which ``damaged`` holds the shards that cannot be read.
        """
        places = [self.place(row) for row in rows]
        shards = self._require({shard for shard, _ in places})
        if self._ranged:
            return list(self._readers.map(lambda place: _row(shards[place[0]], place[1]), places))
        return [_row(shards[shard], index) for shard, index in places]

    def expect(self, rows: Iterable[int]) -> None:
        """Begin to fetch the shards of rows that will be asked for, in this order."""
        for shard in dict.fromkeys(self.place(row)[0] for row in rows):
            if not (shard in self._open or shard in self.damaged):
                self._begin(shard)

    def read_by_range(self, keys: Iterable[str]) -> None:
        """Read rows of these files from the store one by one, because the files do not fit into the cache."""
        self._ranged |= set(keys)

    def close(self) -> None:
        """Give up what is fetched ahead; nothing can be asked for any longer."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    @property
    def left_out(self) -> dict[str, int]:
        """Rows that cannot be read, by the name of their damaged shard."""
        shards = self.manifest.shards
        return {shards[shard].name: shards[shard].rows for shard in sorted(self.damaged)}

    def _require(self, wanted: set[int]) -> dict[int, _Open]:
        missing = sorted(wanted - self._open.keys())
        if not missing:
            return self._open
        kept = {shard: self._open[shard] for shard in wanted if shard in self._open}
        futures = {}
        for shard in missing:
            self._begin(shard)
            futures[shard] = self._coming.pop(shard)
        damage: DamagedShardError | None = None
        for shard, future in futures.items():
            try:
                kept[shard] = self._open[shard] = future.result()
            except DamagedShardError as error:
                self.damaged.add(shard)
                damage = damage or error
        if damage is not None:
            raise damage
        # A mapping would hold the disk space of a file that the cache has given up.
        for shard, opened in list(self._open.items()):
            if not all(file.exists() for file in opened.files):
                del self._open[shard]
        return kept

    def _begin(self, shard: int) -> None:
        if shard not in self._coming:
            self._coming[shard] = self._workers.submit(self._map, shard)

    def _map(self, shard: int) -> _Open:
        lr_column, hr_column = self._columns(shard)
        hr, hr_file = self._map_column(shard, hr_column, 1)
        if lr_column == hr_column:
            return _Open(hr, hr, hr_file)
        lr, lr_file = self._map_column(shard, lr_column, self.scale)
        return _Open(lr, hr, (*lr_file, *hr_file))

    def _map_column(
        self, shard: int, column: Column, scale: int
    ) -> tuple[Sequence[Pixels], tuple[Path, ...]]:
        if self.cached and (column.key in self._ranged or column.bytes > self.cache.limit):
            return self._open_ranged(shard, column, scale), ()
        while True:
            try:
                path = self.cache.get(self._store, column)
                return open_shard(path), (path,)
            except FileNotFoundError:  # another process made room between the check and the mapping
                continue
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                logger.warning(
                    "%s: %s; rows of %s are read from the store one by one, which is slower: make room there, or set "
                    "RAYSCALE_CACHE_DIR to another disk",
                    self.cache.folder, error.strerror, column.key,
                )  # fmt: skip
                return self._open_ranged(shard, column, scale), ()

    def _open_ranged(self, shard: int, column: Column, scale: int) -> RangedColumn:
        self._ranged.add(column.key)
        runs = self.manifest.shards[shard].sizes
        sizes = [(h // scale, w // scale) for h, w, count in runs for _ in range(count)]
        channels, bits = self.manifest.channels, self.manifest.bits
        return RangedColumn(self._store, column, channels=channels, bits=bits, sizes=sizes)

    def _columns(self, shard: int) -> tuple[Column, Column]:
        columns = self.manifest.shards[shard].columns
        return columns[str(self.scale) if self.has_lr else "1"], columns["1"]


def _row(opened: _Open, index: int) -> tuple[Pixels, Pixels]:
    hr = opened.hr[index]
    return (hr if opened.lr is opened.hr else opened.lr[index]), hr
