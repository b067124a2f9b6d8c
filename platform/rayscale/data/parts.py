"""The long lists of a manifest, shards and what is left out, as Parquet objects of so many rows.

Parts are named after their content, so those of a dataset that is there are never written again, and one that was
damaged shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from rayscale.errors import NotFoundError, StorageError
from rayscale.storage import Store

FOLDER = "manifest/"
ROWS = 20_000
"""Rows of a part at most."""

Table = Literal["shards", "failures", "skipped"]
TABLES: tuple[Table, ...] = ("shards", "failures", "skipped")

_TEXT = pa.string()
_LEFT_OUT = pa.schema([("key", _TEXT), ("error", _TEXT), ("message", _TEXT)])
_RUN = pa.struct([("height", pa.int32()), ("width", pa.int32()), ("rows", pa.int32())])
_COLUMN = pa.struct([("scale", _TEXT), ("key", _TEXT), ("bytes", pa.int64()), ("sha256", _TEXT)])
_SCHEMAS = {
    "shards": pa.schema(
        [("name", _TEXT), ("sizes", pa.list_(_RUN)), ("columns", pa.list_(_COLUMN))]
    ),
    "failures": _LEFT_OUT,
    "skipped": _LEFT_OUT,
}


class Part(BaseModel):
    """One object with rows of a table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: Table
    key: str
    rows: int
    sha256: str


class PartsWriter:
    """Rows of one table, stored whenever there are enough for a part."""

    def __init__(self, store: Store, table: Table, rows: int = ROWS) -> None:
        self._store, self._table, self._most = store, table, rows
        self._waiting: list[dict[str, Any]] = []
        self._parts: list[Part] = []

    def add(self, row: dict[str, Any]) -> None:
        """One row, with the columns of the table."""
        self._waiting.append(row)
        if len(self._waiting) == self._most:
            self._flush()

    def finish(self) -> list[Part]:
        """Store what is left; all parts in order."""
        if self._waiting:
            self._flush()
        return self._parts

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._waiting, schema=_SCHEMAS[self._table])
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        digest = hashlib.sha256(data).hexdigest()
        key = f"{FOLDER}{self._table}-{len(self._parts):05d}-{digest[:12]}.parquet"
        self._store.write(key, data)
        self._parts.append(Part(table=self._table, key=key, rows=len(self._waiting), sha256=digest))
        self._waiting = []


def read_rows(store: Store, parts: Iterable[Part], table: Table) -> Iterator[dict[str, Any]]:
    """The rows of a table in order; StorageError for a part that is gone or damaged."""
    for part in parts:
        if part.table != table:
            continue
        try:
            data = store.read(part.key)
        except NotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise StorageError(
                f"{store.locate(part.key)} is gone or damaged; prepare the dataset again"
            )
        for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches(4096):
            yield from batch.to_pylist()


def shard_row(name: str, sizes: Iterable[tuple[int, int, int]], columns: Any) -> dict[str, Any]:
    """A row of ``shards``; ``columns`` are those of ``rayscale.data.manifest.Shard``."""
    return {
        "name": name,
        "sizes": [dict(zip(("height", "width", "rows"), run, strict=True)) for run in sizes],
        "columns": [{"scale": scale, **dict(column)} for scale, column in columns.items()],
    }


def in_batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of so many items."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
