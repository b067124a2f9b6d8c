"""Rows that survive, and which of two rows counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from rayscale.batch import manifest as module
from rayscale.batch.inputs import read_keys
from rayscale.batch.manifest import Manifest, Row
from rayscale.errors import StorageError
from rayscale.storage import connect

ROW = Row(
    "a b+%#é/ü.png", "e1", 10, "r1", "m/1", "d" * 64, {"scale": 2}, "o1", 40, "s" * 64, 0.01, 0.5
)


def test_rows_come_back(tmp_path: Path) -> None:
    store = connect(tmp_path)
    noted = replace(ROW, key="noted", notes=("é", "two"))
    failed = replace(ROW, key="bad\udcff.png", error="bad_image", message='it\'s "cut"\nshort')
    first = Manifest(store, 1)
    first.append([ROW, noted, failed])
    first.flush()
    first.flush()
    assert Manifest(store, 2).load().rows == {row.key: row for row in (ROW, noted, failed)}
    assert len(list(store.list())) == 1


def test_a_later_holder_overrides_an_earlier_one_that_writes_late(tmp_path: Path) -> None:
    store = connect(tmp_path)
    asleep, successor = Manifest(store, 1), Manifest(store, 2)
    successor.append([replace(ROW, output_etag="new")])
    successor.flush()
    asleep.append([replace(ROW, output_etag="old")])
    asleep.flush()
    assert Manifest(store, 3).load().rows[ROW.key].output_etag == "new"


def test_many_parts_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 1)
    store = connect(tmp_path)
    manifest = Manifest(store, 1)
    rows = {f"{i}": replace(ROW, key=f"{i}") for i in range(40)}
    for row in rows.values():
        manifest.append([row])
    assert len(list(store.list())) == 40
    manifest.compact()
    assert len(list(store.list())) == 1
    assert Manifest(store, 2).load().rows == rows


def test_rows_of_other_versions_are_read(tmp_path: Path) -> None:
    store = connect(tmp_path)
    old = {
        "key": "a",
        "source_etag": "e",
        "source_size": 1,
        "recipe": "r",
        "model": "m",
        "digest": "d",
        "scale": 2,
    }
    store.write("_rayscale/manifest/00000001-000000.jsonl", json.dumps(old).encode())
    assert Manifest(store, 2).load().rows == {"a": Row("a", "e", 1, "r", "m", "d")}


def test_the_copies_say_what_the_rows_say(tmp_path: Path) -> None:
    store = connect(tmp_path)
    bad = replace(ROW, key="bad\udcff.png", output_etag="", error="bad_image", message="cut")
    manifest = Manifest(store, 1)
    manifest.append([bad, ROW, replace(ROW, key="gone")])
    manifest.forget(lambda row: row.key == "gone")
    for _ in range(2):
        manifest.publish()
    lines = [json.loads(line) for line in store.read("_rayscale/manifest.jsonl").splitlines()]
    assert [line["key"] for line in lines] == [ROW.key, bad.key]
    assert [(line["status"], line["output_key"]) for line in lines] == [
        ("done", ROW.key),
        ("failed", ""),
    ]
    assert lines[0]["parameters"] == {"scale": 2}
    failures = [json.loads(line) for line in store.read("_rayscale/failures.jsonl").splitlines()]
    assert failures == lines[1:]
    table = pyarrow.parquet.read_table(tmp_path / "_rayscale/manifest.parquet").to_pylist()
    assert table[0] == {**lines[0], "parameters": '{"scale": 2}', "notes": "[]"}
    assert table[1]["key"] == r"bad\udcff.png"
    assert read_keys(tmp_path / "_rayscale/failures.jsonl") == [bad.key]


def test_a_manifest_without_rows_is_a_table_too(tmp_path: Path) -> None:
    Manifest(connect(tmp_path), 1).publish()
    table = pyarrow.parquet.read_table(tmp_path / "_rayscale/manifest.parquet")
    assert table.num_rows == 0
    assert {"key", "output_sha256", "status", "megapixels"} <= set(table.column_names)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = connect(tmp_path)
    store.write("_rayscale/manifest/00000001-000000.jsonl", b'{"key": "x"}\n')
    with pytest.raises(StorageError, match=r"00000001-000000\.jsonl is not a part of a manifest"):
        Manifest(store, 2).load()
