"""A bounded folder of shard files on this machine, shared by the processes that read the same datasets."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rayscale.data.manifest import Column
from rayscale.errors import ConfigError, StorageError
from rayscale.settings import get_settings
from rayscale.storage import Store
from rayscale.storage.local import LocalStore

_STALE_S = 3600.0  # a download that has not grown for so long was killed


class DamagedShardError(StorageError):
    """A shard whose stored bytes are not those of the manifest, also when they were fetched again."""


class ShardCache:
    """Files named by their sha256 below ``folder``; the least recently opened go when ``limit`` bytes are full.

    A file that goes while a process has it mapped stays readable there. Safe for threads and processes.
    """

    def __init__(self, folder: str | Path | None = None, limit: int | None = None) -> None:
        settings = get_settings()
        self.folder = Path(folder or settings.cache_dir) / "shards"
        self.limit = limit or settings.cache_bytes

    def get(self, store: Store, column: Column) -> Path:
        """A local file with the bytes of ``column``, their digest just verified.

        Shards of a local store are used in place. A damaged copy is fetched once more; ``DamagedShardError`` when the
        stored object itself is damaged.
        """
        if isinstance(store, LocalStore):
            path = store.root / column.key
            store.stat(column.key)
            if not _intact(path, column):
                raise _damage(store, column)
            return path
        path = self.folder / f"{column.sha256}.arrow"
        if found := self._find(path, column):
            return found
        with self._turn(column):  # one worker of a node fetches it, the others wait for the file
            for _ in range(2):
                if found := self._find(path, column):
                    return found
                self._fetch(store, column, path)
                if _intact(path, column):
                    return path
            path.unlink(missing_ok=True)
        raise _damage(store, column)

    def _find(self, path: Path, column: Column) -> Path | None:
        """The file, now the most recently used, if it is there and whole."""
        if _intact(path, column):
            with suppress(FileNotFoundError):
                os.utime(path)
                return path
        return None

    @contextmanager
    def _turn(self, column: Column) -> Iterator[None]:
        (self.folder / "incoming").mkdir(parents=True, exist_ok=True)
        with (self.folder / "incoming" / f"{column.sha256}.turn").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def size(self) -> int:
        """Bytes held now, downloads under way included at their full size."""
        with self._locked():
            return sum(size for _, size, _ in self._files())

    def _fetch(self, store: Store, column: Column, path: Path) -> None:
        with self._room(column.bytes) as mark:
            incoming = self.folder / "incoming" / f"{mark.stem}.arrow"
            try:
                store.fetch(column.key, incoming)
                with self._locked():  # or both would count
                    incoming.replace(path)
                    mark.unlink(missing_ok=True)
            finally:
                incoming.unlink(missing_ok=True)

    @contextmanager
    def _room(self, count: int) -> Iterator[Path]:
        """Evict until ``count`` more bytes fit, and hold their place by an empty (sparse) file of that size."""
        if count > self.limit:
            raise ConfigError(
                f"a shard of {count} bytes does not fit into the cache of {self.limit} bytes; raise "
                "RAYSCALE_CACHE_BYTES or prepare the dataset with fewer images per shard"
            )
        mark = self.folder / f"{uuid.uuid4().hex}.reserved"
        with self._locked():
            self._clean()
            files = sorted(self._files())
            excess = sum(size for _, size, _ in files) + count - self.limit
            for _, size, path in files:
                if excess <= 0:
                    break
                if path.suffix == ".arrow":
                    path.unlink(missing_ok=True)
                    excess -= size
            with mark.open("wb") as file:
                file.truncate(count)
        try:
            yield mark
        finally:
            mark.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        (self.folder / "incoming").mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in (*self.folder.glob("*.reserved"), *self.folder.glob("*.arrow")):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found

    def _clean(self) -> None:
        """Remove what killed processes left behind."""
        for path in (*(self.folder / "incoming").iterdir(), *self.folder.glob("*.reserved")):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink()


def _intact(path: Path, column: Column) -> bool:
    try:
        with path.open("rb") as file:
            return (
                os.fstat(file.fileno()).st_size == column.bytes
                and hashlib.file_digest(file, "sha256").hexdigest() == column.sha256
            )
    except FileNotFoundError:
        return False


def _damage(store: Store, column: Column) -> DamagedShardError:
    return DamagedShardError(
        f"{store.locate(column.key)} does not have the sha256 of its manifest ({column.sha256[:12]}...); "
        "it was changed or damaged: delete it and prepare the dataset again"
    )
