"""The objects of a source in a file of this machine, so that memory does not grow with their number."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from rayscale.storage import Entry

_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE objects (key TEXT PRIMARY KEY, size INTEGER, etag TEXT) WITHOUT ROWID;
CREATE TABLE images (number INTEGER PRIMARY KEY, key TEXT, size INTEGER, etag TEXT);
"""


class Listing:
    """Every object of a source by key, and which of them are the images to use, in order. A context manager.

    A million objects take about 150 MB of disk and a few of memory.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rayscale-listing-")
        # Runners may take tasks in a thread of their own, one at a time.
        self._database = sqlite3.connect(
            Path(self._folder.name, "listing.sqlite"), check_same_thread=False
        )
        self._database.executescript(_TABLES)

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._folder.cleanup()

    def fill(self, entries: Iterable[Entry]) -> None:
        """Add the objects of a source."""
        rows = ((entry.key, entry.size, entry.etag) for entry in entries)
        self._database.executemany("INSERT INTO objects VALUES (?, ?, ?)", rows)

    def __len__(self) -> int:
        return self._count("objects")

    def __contains__(self, key: object) -> bool:
        return bool(
            self._database.execute("SELECT 1 FROM objects WHERE key = ?", (key,)).fetchone()
        )

    def __iter__(self) -> Iterator[Entry]:
        return self._entries("SELECT key, size, etag FROM objects ORDER BY key")

    def choose(self, entries: Iterable[Entry]) -> None:
        """Add to the images to use."""
        rows = ((entry.key, entry.size, entry.etag) for entry in entries)
        self._database.executemany("INSERT INTO images (key, size, etag) VALUES (?, ?, ?)", rows)

    @property
    def chosen(self) -> int:
        """How many images there are to use."""
        return self._count("images")

    def images(self, spread: int = 1, *, others: bool = False) -> Iterator[Entry]:
        """The images to use: every one, each ``spread``-th, or all ``others`` than these."""
        condition = "<>" if others else "="
        return self._entries(
            f"SELECT key, size, etag FROM images WHERE (number - 1) % ? {condition} 0 ORDER BY number",
            spread,
        )

    def _count(self, table: str) -> int:
        return int(self._database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def _entries(self, query: str, *values: int) -> Iterator[Entry]:
        for key, size, etag in self._database.execute(query, values):
            yield Entry(key, size, etag)
