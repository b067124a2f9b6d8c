"""What is particular to local folders."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
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


def test_a_folder_with_two_names_has_its_objects_under_both(tmp_path: Path) -> None:
    store = connect(tmp_path)
    store.write("2026/11/a.png", b"x")
    (tmp_path / "2026" / "latest").symlink_to("11")
    (tmp_path / "2026" / "11" / "up").symlink_to("..")
    assert [entry.key for entry in store.list()] == ["2026/11/a.png", "2026/latest/a.png"]


def test_a_link_to_nothing_is_listed_as_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere")
    assert [(entry.key, entry.size) for entry in connect(tmp_path).list()] == [("a.png", 0)]


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: Path, monkeypatch) -> None:
    store = connect(tmp_path)
    store.write("open/a", b"x")
    store.write("closed/b", b"x")
    scan = os.scandir

    def denied(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)  # root may read everything
    with pytest.raises(StorageError, match=r"closed cannot be listed: Permission denied"):
        list(store.list())


def test_only_what_dead_writers_left_is_tidied(tmp_path: Path) -> None:
    store = connect(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from rayscale.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); print('begun', flush=True); time.sleep(60)"
    )
    dead, alive = (
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "deep" / name], stdout=subprocess.PIPE
        )
        for name in ("dead.png", "alive.png")
    )
    for writer in (dead, alive):
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
    dead.kill()
    dead.wait()
    (tmp_path / "empty" / "below").mkdir(parents=True)
    assert len(list((tmp_path / "deep").iterdir())) == 2
    store.tidy()
    assert len(list((tmp_path / "deep").iterdir())) == 1
    store.tidy("empty", folders=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]
    alive.kill()
    alive.wait()
    store.tidy()
    assert list((tmp_path / "deep").iterdir()) == []
