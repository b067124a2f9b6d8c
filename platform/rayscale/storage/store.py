"""The interface of a store.

A store is a flat set of objects named by keys: relative names with ``/`` between their parts, exactly as S3
has them (a space, ``+``, ``%``, ``#`` and any Unicode letter stand for themselves; nothing is ever decoded).
The two kinds live in ``rayscale.storage.local`` and ``rayscale.storage.s3``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar

from rayscale.errors import ConfigError, NotFoundError

_LITTER = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"}


@dataclass(frozen=True, order=True)
class Entry:
    """One object of a listing: its key below the store's root, its size in bytes, its version tag.

    ``etag`` changes whenever the object is written again; it is an opaque text, compared for equality only.
    ``mark`` is what its writer gave, "" when it gave none; None where that is not known, as in a listing of S3 and on
    a file system without attributes. ``modified`` is when it was written, in seconds since 1970 by the clock of the store.
    """

    key: str
    size: int
    etag: str
    mark: str | None = field(default=None, compare=False)
    modified: float = field(default=0.0, compare=False)


class Store(ABC):
    """Objects below one root. Safe to share between threads, cheap to pickle, no connection until used.

    Every method raises ``NotFoundError`` for a missing object (or bucket), ``StorageError`` for a store that
    denies, cannot be reached after ``RAYSCALE_STORAGE_ATTEMPTS`` attempts or returns damaged bytes, and
    ``ConfigError`` for a key that cannot be one.
    """

    uri: str
    """The root, ``s3://bucket/prefix`` or an absolute path, without a slash at the end."""

    marks_outlive_bytes: ClassVar[bool] = False
    """Whether an object keeps its mark when another program changes what is in it."""

    def locate(self, key: str) -> str:
        """The full URI of an object: what messages and manifests name."""
        return f"{self.uri.rstrip('/')}/{key}"

    @abstractmethod
    def child(self, prefix: str) -> Store:
        """The store rooted at ``prefix`` below this root; it need not exist."""

    @abstractmethod
    def list(self, prefix: str = "", *, folders: bool = False) -> Iterator[Entry]:
        """Every object whose key starts with ``prefix``, at any depth, sorted by key; an empty listing is not an error.

        With ``folders`` also the empty objects by which consoles of S3 stand for folders: their keys end with a slash.
        """

    @abstractmethod
    def stat(self, key: str) -> Entry:
        """Size, version tag and mark of one object."""

    def read(self, key: str) -> bytes:
        """All bytes of one object, its length (and its checksum where the store has one) verified."""
        return self.read_version(key)[0]

    @abstractmethod
    def read_version(self, key: str) -> tuple[bytes, str]:
        """``read``, and the version tag of what was read."""

    @abstractmethod
    def read_range(self, key: str, start: int, length: int) -> bytes:
        """``length`` bytes from offset ``start``; fewer at the end of the object, none beyond it."""

    @abstractmethod
    def fetch(self, key: str, path: str | Path) -> str:
        """Copy one object to a local file and return the version tag of what was copied.

        The file appears whole, with verified length, or not at all.
        """

    @abstractmethod
    def write(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str = "", mark: str = ""
    ) -> str | None:
        """Write one object atomically and return its version tag.

        Args:
            if_absent: only create, never replace: of any number of concurrent writers exactly one wins, every other
                gets None.
            if_match: only replace the version of this tag; None when it is gone. Exact where the store knows the
                condition (AWS does); for folders and other servers it is compared just before the write.
            mark: a line of ASCII that stays with the object and ``stat`` tells; lost where there is no place for it.
        """

    @abstractmethod
    def write_file(
        self,
        key: str,
        path: str | Path,
        *,
        if_absent: bool = False,
        if_match: str = "",
        mark: str = "",
    ) -> str | None:
        """``write`` of the content of a local file of any size, to S3 in parts."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete one object; deleting what is not there is no error."""

    def forget_unfinished(self, key: str) -> None:  # noqa: B027 - nothing to do is the rule
        """Delete what killed writers sent of an object in parts: no listing shows it, but it takes its place.

        For who alone writes the key: an upload of another that is on its way would fail. Here for stores that have
        nothing of the kind; one that denies it stays as it is.
        """

    def list_unfinished(self) -> Iterator[Entry]:
        """Uploads in parts that were begun and not ended, with what they hold so far; no ``list`` shows them.

        ``forget_unfinished`` deletes those of a key. None here for stores that have nothing of the kind.
        """
        return iter(())

    def tidy(self, prefix: str = "", *, folders: bool = False) -> None:  # noqa: B027 - nothing to do is the rule
        """Delete the unfinished files that killed writers left below ``prefix``, and with ``folders`` empty folders.

        What somebody is writing stays. Here for stores that have neither.
        """

    def exists(self, key: str) -> bool:
        """Whether the object is there. A store that denies or is gone is an error, not an absence."""
        try:
            self.stat(key)
        except NotFoundError:
            return False
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)


def is_hidden(key: str) -> bool:
    """Whether nobody means this object: a part of its name begins with a dot, or operating systems leave such names.

    >>> [is_hidden(key) for key in ("a/._b.png", "__MACOSX/b.png", "a/Thumbs.db", "a/b.png")]
    [True, True, True, False]
    """
    parts = PurePosixPath(key).parts
    return any(part.startswith(".") or part.lower() in _LITTER for part in parts)


def check_key(key: str) -> str:
    """Refuse keys that could point out of the root: empty, absolute, or with ``.`` or ``..`` as a part."""
    if not key or key.startswith("/") or "\0" in key or {".", ".."} & set(key.split("/")):
        raise ConfigError(
            f"{key!r} is not a key: expected a relative name like 'images/a.png', without '.' or '..' parts"
        )
    return key
