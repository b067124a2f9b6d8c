"""Rows that survive, and which of two rows counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rayscale.batch import manifest as module
from rayscale.batch.manifest import Manifest, Row
from rayscale.errors import StorageError
from rayscale.storage import connect

ROW = Row("a b+%#é/ü.png", "e1", 10, "r1", "m/1", "d" * 64, 2, "o1", 40, 0.5)


def test_rows_come_back(tmp_path: Path) -> None:
    store = connect(tmp_path)
    failed = replace(ROW, key="bad\udcff.png", error="bad_image", message='it\'s "cut"\nshort')
    first = Manifest(store, 1)
    first.append([ROW, failed])
    first.flush()
    first.flush()
    assert Manifest(store, 2).load().rows == {ROW.key: ROW, failed.key: failed}
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


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = connect(tmp_path)
    store.write("_rayscale/manifest/00000001-000000.jsonl", b'{"key": "x"}\n')
    with pytest.raises(StorageError, match=r"00000001-000000\.jsonl is no part of a manifest"):
        Manifest(store, 2).load()
