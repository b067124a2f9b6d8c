"""A folder of this machine as a store: keys are file names below it."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rayscale.errors import ConfigError, NotFoundError, StorageError
from rayscale.files import delete_abandoned, is_unfinished, replacing
from rayscale.storage.store import Entry, Store, check_key

_MARK = "user.rayscale.mark"  # the attribute that holds it
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class LocalStore(Store):
    """Objects as files. Keys cannot leave the root; symbolic links that its owner put there are followed."""

    marks_outlive_bytes = True  # attributes are those of the file, whatever is written into it

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root.expanduser()))
        self.uri = str(self.root)

    def child(self, prefix: str) -> LocalStore:
        prefix = prefix.strip("/")
        return LocalStore(self._path(prefix)) if prefix else self

    def list(self, prefix: str = "", *, folders: bool = False) -> Iterator[Entry]:
        top, _, _ = prefix.rpartition("/")
        start = self._path(top) if top else self.root
        # Sorted as a whole, because S3 sorts keys as text: "a-b" comes before "a/b".
        for key in sorted(key for key in self._walk(start) if key.startswith(prefix)):
            try:
                yield self.stat(key)
            except NotFoundError:  # deleted since the walk, or a link to nothing
                if (self.root / key).is_symlink():
                    yield Entry(key, 0, "")

    def stat(self, key: str) -> Entry:
        path = self._path(key)
        with self._errors(key):
            status = path.stat()
            if not path.is_file():
                raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
        return Entry(key, status.st_size, _etag(status), _mark(path), status.st_mtime)

    def read_version(self, key: str) -> tuple[bytes, str]:
        with self._errors(key), self._path(key).open("rb") as file:
            # Tagged afterwards: what was written into the file meanwhile makes it another version.
            return file.read(), _etag(os.fstat(file.fileno()))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._errors(key), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def fetch(self, key: str, path: str | Path) -> str:
        with self._errors(key), self._path(key).open("rb") as source, replacing(path) as target:
            shutil.copyfileobj(source, target, 1 << 20)
            return _etag(os.fstat(source.fileno()))

    def write(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str = "", mark: str = ""
    ) -> str | None:
        return self._write(key, io.BytesIO(data), if_absent, if_match, mark)

    def write_file(
        self,
        key: str,
        path: str | Path,
        *,
        if_absent: bool = False,
        if_match: str = "",
        mark: str = "",
    ) -> str | None:
        with self._errors(key), Path(path).open("rb") as source:
            return self._write(key, source, if_absent, if_match, mark)

    def _write(
        self, key: str, source: IO[bytes], if_absent: bool, if_match: str, mark: str
    ) -> str | None:
        path = self._path(key)
        with self._errors(key):
            try:
                with replacing(path, exclusive=if_absent) as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                    if mark:
                        _set_mark(file, mark)
                    if if_match and not (path.is_file() and _etag(path.stat()) == if_match):
                        raise FileExistsError
                return _etag(path.stat())
            except FileExistsError:
                if if_match or (if_absent and path.is_file()):
                    return None
                raise

    def delete(self, key: str) -> None:
        with suppress(NotFoundError), self._errors(key):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        if "" in check_key(key).split("/"):
            raise ConfigError(f"{key!r} has an empty part, which a local folder cannot hold")
        return self.root / key

    def tidy(self, prefix: str = "", *, folders: bool = False) -> None:
        start = self._path(prefix.strip("/")) if prefix else self.root
        for folder, _, files in os.walk(start, topdown=False):
            for name in files:
                if is_unfinished(name):
                    delete_abandoned(Path(folder, name))
            if folders:
                with suppress(OSError):  # it holds something
                    os.rmdir(folder)

    def _walk(self, folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in above:  # a symbolic link to a folder above
                return
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not is_unfinished(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StorageError(f"{folder} cannot be listed: {error.strerror or error}") from error
        for entry in found:
            if entry.is_dir():
                yield from self._walk(Path(entry), above | {(status.st_dev, status.st_ino)})
            else:
                yield Path(entry).relative_to(self.root).as_posix()

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = self.locate(key)
            if error.errno in _ABSENT:
                raise NotFoundError(f"{place} does not exist") from error
            raise StorageError(f"{place}: {error.strerror or error}") from error


def _set_mark(file: IO[bytes], mark: str) -> None:
    with suppress(AttributeError, OSError):  # no Linux, or a file system without attributes
        os.setxattr(file.fileno(), _MARK, mark.encode())


def _mark(path: Path) -> str | None:
    try:
        return os.getxattr(path, _MARK).decode(errors="replace")
    except (AttributeError, OSError) as error:
        return "" if getattr(error, "errno", None) == errno.ENODATA else None


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}"
