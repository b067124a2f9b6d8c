"""What was done and what failed: one row per input, in ``_rayscale/manifest/`` of the target.

Rows are appended as parts (JSON lines); a later part overrides an earlier one. An output counts only with its
row, and its row is written after it: a kill at any point loses some rows, never truth.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rayscale.errors import StorageError
from rayscale.storage import Store

_FOLDER = "_rayscale/manifest/"
_ROWS = 256  # of one part, and
_SECONDS = 5.0  # between two parts
_MOST_PARTS = 32  # of finished runs, before they are made one


@dataclass(frozen=True)
class Row:
    """One input of a run.

    Attributes:
        key: name below source and target alike.
        source_etag, source_size: the version of the source that was read.
        recipe: digest of model and parameters; see ``plan.Recipe``.
        model, digest, scale: for people; the recipe holds them too.
        output_etag, output_size: of the object at ``key`` in the target; empty for a failure.
        seconds: from reading to having written.
        error: class of the failure (``bad_image``, ``unsupported_media``, ``too_large``, ``not_found``,
            ``storage``, ``changed``, ``out_of_memory``, ``worker_died``, ``error``), empty when done.
        message: the failure in words.
    """

    key: str
    source_etag: str
    source_size: int
    recipe: str
    model: str
    digest: str
    scale: float
    output_etag: str = ""
    output_size: int = 0
    seconds: float = 0.0
    error: str = ""
    message: str = ""

    def to_json(self) -> str:
        """One line of ASCII."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Row:
        """Raises ValueError for text that is no row."""
        values: dict[str, Any] = json.loads(text)
        try:
            return Row(**values)
        except TypeError as error:
            raise ValueError(str(error)) from error


class Manifest:
    """The rows in a target. ``append`` buffers; ``flush`` writes a part.

    ``generation`` is that of the lease: rows of a later holder override those of an earlier one, even when
    the earlier one wakes up and writes late.
    """

    def __init__(self, store: Store, generation: int) -> None:
        self._store, self._generation = store, generation
        self._sequence = 0
        self._waiting: list[Row] = []
        self._written = time.monotonic()
        self._parts: list[str] = []
        self.rows: dict[str, Row] = {}
        """The last row of every input, as of ``load`` and the appends since."""

    def load(self) -> Manifest:
        """Read all parts into ``rows``. Raises StorageError for a part that is none."""
        self._parts = [entry.key for entry in self._store.list(_FOLDER)]  # sorted: oldest first
        for key in self._parts:
            try:
                lines = self._store.read(key).decode("utf-8").splitlines()
                rows = [Row.from_json(line) for line in lines]
            except ValueError as error:
                raise StorageError(
                    f"{self._store.locate(key)} is no part of a manifest ({error}); it was damaged or is of "
                    "another version of rayscale. Delete it: what it lists is done again"
                ) from error
            self.rows.update((row.key, row) for row in rows)
        return self

    def append(self, rows: Iterable[Row]) -> None:
        """Take note of rows; written at the latest with the next ``append`` after some seconds."""
        for row in rows:
            self.rows[row.key] = row
            self._waiting.append(row)
        if len(self._waiting) >= _ROWS or time.monotonic() - self._written > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows as one part."""
        self._written = time.monotonic()
        if self._waiting:
            self._parts.append(self._write(self._waiting))
            self._waiting = []

    def compact(self) -> None:
        """Make one part of many; a kill in between leaves parts that say the same twice."""
        self.flush()
        if len(self._parts) > _MOST_PARTS:
            old, self._parts = self._parts, []
            self._parts.append(self._write(self.rows.values()))
            for key in old:
                self._store.delete(key)

    def _write(self, rows: Iterable[Row]) -> str:
        key = f"{_FOLDER}{self._generation:08d}-{self._sequence:06d}.jsonl"
        self._sequence += 1
        self._store.write(key, "".join(f"{row.to_json()}\n" for row in rows).encode())
        return key
