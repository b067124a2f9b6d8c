"""What is particular to local folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rayscale.errors import ConfigError, StorageError
from rayscale.storage import connect


def test_a_failed_write_leaves_the_old_object(tmp_path: Path) -> None:
    store = connect(tmp_path)
    store.write("k", b"old")
    with pytest.raises(TypeError):
        store.write("k", "text is not bytes")  # type: ignore[arg-type]
    assert store.read("k") == b"old"
    assert os.listdir(tmp_path) == ["k"]


def test_files_being_written_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".rayscale-0123.part").write_bytes(b"half")
    (tmp_path / ".hidden").write_bytes(b"whole")
    assert [entry.key for entry in connect(tmp_path).list()] == [".hidden"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"1")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(elsewhere)
    (root / "circle").symlink_to(root)
    store = connect(root)
    assert [entry.key for entry in store.list()] == ["linked/a.png"]
    assert store.read("linked/a.png") == b"1"


def test_what_a_folder_cannot_hold_is_an_error(tmp_path: Path) -> None:
    store = connect(tmp_path)
    store.write("a", b"1")
    with pytest.raises(StorageError, match="a/b"):
        store.write("a/b", b"2")
    with pytest.raises(ConfigError, match="empty part"):
        store.write("a//b", b"2")
    with pytest.raises(StorageError, match="too long"):
        store.write("x" * 300, b"2")


def test_the_home_folder_and_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert connect("~/data").uri == str(tmp_path / "data")
    assert connect("data/").uri == str(tmp_path / "data")
    assert connect("data").locate("k") == str(tmp_path / "data" / "k")
