"""What was done and what failed: one row per input, in ``_rayscale/`` of the target.

The journal, ``_rayscale/manifest/``, is the truth: parts of JSON lines are appended to it, a later part overrides an earlier
one. An output counts only with its row, and its row is written after it: a kill at any point loses some rows, never
truth. ``manifest.parquet``, ``manifest.jsonl`` and ``failures.jsonl`` are copies for readers, written whole when a run ends.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from rayscale import strictjson
from rayscale.errors import StorageError, UnsupportedError
from rayscale.files import check_format
from rayscale.storage import Store

_FOLDER = "_rayscale/manifest/"
_TABLE = "_rayscale/manifest.parquet"
_LINES = "_rayscale/manifest.jsonl"
_FAILURES = "_rayscale/failures.jsonl"
FORMAT = 1
"""Of a row; those without a number are of format 1."""

_ROWS = 256  # of one part, and
_SECONDS = 5.0  # between two parts
_MOST_PARTS = 32  # of finished runs, before they are made one


@dataclass(frozen=True)
class Row:
    """One input of a run.

    Attributes:
        key: name of the source below its root, and of the output below the target.
        source_etag, source_size: the version of the source that was read, and its bytes.
        recipe: id of the method, a digest of model and parameters; see ``plan.Method``. Manifests have that name for it.
        model, digest, parameters: for people; the method holds them too.
        output_etag, output_size, output_sha256: of the object at ``key`` in the target; empty for a failure.
        megapixels: of the source, all slices; 0 when its header was not read.
        seconds: reading, computing and writing.
        error: class of the failure (``bad_image``, ``unsupported_media``, ``too_large``, ``not_found``, ``exists``,
            ``storage``, ``changed``, ``out_of_memory``, ``worker_died``, ``bad_configuration``, ``error``), empty when done.
        message: the failure in words.
        run: id of what the row came of, see ``rayscale.correlation``.
        notes: of a file that was read with a remark, see ``imaging.Image``.
        format: of the row.
    """

    key: str
    source_etag: str
    source_size: int
    recipe: str
    model: str
    digest: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    output_etag: str = ""
    output_size: int = 0
    output_sha256: str = ""
    megapixels: float = 0.0
    seconds: float = 0.0
    error: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()
    run: str = ""
    format: int = FORMAT

    def to_json(self) -> str:
        """One line of ASCII."""
        return strictjson.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Row:
        """Fields of other versions are passed over. ValueError for text that is not a row, UnsupportedError for a later format."""
        values = strictjson.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"{text[:40]!r} is not an object")
        check_format(
            "a row", values.get("format", FORMAT), FORMAT, "use the rayscale that wrote it"
        )
        known = {each.name for each in fields(Row)}
        try:
            row = Row(**{name: value for name, value in values.items() if name in known})
            return replace(row, notes=tuple(row.notes))
        except TypeError as error:
            raise ValueError(str(error)) from error

    def to_record(self) -> dict[str, Any]:
        """The row as the copies for readers have it: with its output key and its status, in the order of the columns."""
        values = asdict(self)
        last = ("error", "message", "notes", "run", "format")
        error, message, notes, run, format = (values.pop(name) for name in last)
        output = "" if error else self.key
        status = "failed" if error else "done"
        return {
            **values,
            "output_key": output,
            "status": status,
            "error": error,
            "message": message,
            "notes": list(notes),
            "run": run,
            "format": format,
        }


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
        """Read all parts into ``rows``. Raises StorageError for a part that is none, UnsupportedError for a later format."""
        self._parts = [entry.key for entry in self._store.list(_FOLDER)]  # sorted: oldest first
        for key in self._parts:
            try:
                lines = self._store.read(key).decode("utf-8").splitlines()
                rows = [Row.from_json(line) for line in lines]
            except ValueError as error:
                raise StorageError(
                    f"{self._store.locate(key)} is not a part of a manifest ({error}); it was damaged. "
                    "Delete it: what it lists is done again"
                ) from error
            except UnsupportedError as error:
                raise UnsupportedError(f"{self._store.locate(key)}: {error}") from None
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

    def forget(self, gone: Callable[[Row], bool]) -> None:
        """Leave out rows that are no longer true: of the copies at once, of the journal when it is compacted."""
        self.rows = {key: row for key, row in self.rows.items() if not gone(row)}

    def publish(self) -> None:
        """Write the copies for readers, each whole and atomically, sorted by key."""
        records = [self.rows[key].to_record() for key in sorted(self.rows)]
        failures = [record for record in records if record["error"]]
        self._store.write(_TABLE, _parquet(records))
        for key, some in ((_LINES, records), (_FAILURES, failures)):
            self._store.write(key, "".join(f"{strictjson.dumps(each)}\n" for each in some).encode())

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


def _parquet(records: list[dict[str, Any]]) -> bytes:
    """One row group with a column per field of ``Row.to_record``; ``parameters`` and ``notes`` are text, JSON."""
    import pyarrow
    import pyarrow.parquet

    types = {
        "source_size": "int64",
        "output_size": "int64",
        "megapixels": "float64",
        "seconds": "float64",
        "format": "int64",
    }
    names = list(Row("", "", 0, "", "", "").to_record())
    schema = pyarrow.schema([(name, types.get(name, "string")) for name in names])
    rows = [
        {
            **_printable(record),
            "parameters": strictjson.dumps(record["parameters"], sort_keys=True),
            "notes": strictjson.dumps(record["notes"]),
        }
        for record in records
    ]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), file)
    return file.getvalue()


def _printable(record: dict[str, Any]) -> dict[str, Any]:
    """Without lone surrogates, which file names may have and Parquet may not: they become their escapes."""
    return {
        key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for key, value in record.items()
    }
