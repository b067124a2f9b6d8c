"""Files of this machine: replaced whole or not at all, known by their sha256."""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rayscale.errors import ConfigError, NotFoundError, UnsupportedError

_TEMPORARY = (".rayscale-", ".part")  # start and end of the names of what is being written


def sha256_of(*paths: str | Path) -> str:
    """The sha256 of a file, or of several one after the other, in hexadecimal; NotFoundError when one does not exist."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with Path(path).open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        except FileNotFoundError:
            raise NotFoundError(f"there is no file {path}") from None
    return digest.hexdigest()


def check_distinct(source: Path, target: Path) -> None:
    """Raise ConfigError where an output would take the place of its input."""
    if target.exists() and target.samefile(source):
        raise ConfigError(f"input and output are the same file {source}; name another output")


def check_format(place: str, found: Any, known: int, way_out: str) -> None:
    """Raise UnsupportedError, which ends with the ``way_out``, unless what lies at ``place`` has the format ``known``."""
    if found != known:
        raise UnsupportedError(
            f"{place} has format {found!r}, this version reads {known}; {way_out}"
        )


@contextmanager
def replacing(
    path: str | Path, *, exclusive: bool = False, private: bool = False
) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when the block ends without an error, whole and on disk.

    Args:
        exclusive: keep an existing ``path`` and raise FileExistsError.
        private: readable by its owner alone, from its first byte on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, file = _begin(path, 0o600 if private else 0o666)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if exclusive:
                os.link(temporary, path)  # unlike a rename, fails when the name is taken
            else:
                temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_unfinished(name: str) -> bool:
    """Whether a file name is that of one which :func:`replacing` writes."""
    return name.startswith(_TEMPORARY[0]) and name.endswith(_TEMPORARY[1])


def delete_abandoned(path: Path) -> None:
    """Delete what a writer left who died; while one works on it, or the file system knows no locks, it stays."""
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _begin(path: Path, mode: int) -> tuple[Path, IO[bytes]]:
    """An empty file that is to become ``path``, locked: one that is not was left by a writer who died."""
    while True:
        temporary = path.with_name(uuid.uuid4().hex.join(_TEMPORARY))
        file = os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():  # else deleted before it was locked
            return temporary, file
        file.close()
