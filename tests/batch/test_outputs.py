"""Whose an object at an output key is: on a real S3 server and in a folder."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayscale.batch.outputs import ExistsError, Mark, Placed, Slot, find_slot
from rayscale.batch.plan import Method, Task
from rayscale.options import Options
from rayscale.storage import Entry, Store, connect
from rayscale.storage.local import LocalStore

METHOD = Method("m/1", "d" * 64, Options(scale=2))
TASK = Task(Entry("ü b.png", 3, "source-1"))


@pytest.fixture(params=["folder", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return connect(f"{request.getfixturevalue('s3').uri}/out")
    return connect(tmp_path / "out")


def slot(target: Store, task: Task = TASK, method: Method = METHOD, **options: bool) -> Slot:
    found = find_slot(target, task, method, **{"overwrite": False, **options})
    assert isinstance(found, Slot)
    return found


def seen(target: Store, *, ours: bool = False, etag: str = "source-1") -> Task:
    """The task as a plan would make it now."""
    return Task(replace(TASK.entry, etag=etag), target.stat(TASK.entry.key).etag, ours)


def test_an_output_without_its_row_is_recognised(target: Store) -> None:
    placed = slot(target).write(b"output", 1.5)
    assert placed == Placed(
        target.stat("ü b.png").etag, 6, hashlib.sha256(b"output").hexdigest(), 1.5
    )
    assert find_slot(target, seen(target), METHOD, overwrite=False) == placed
    assert find_slot(target, seen(target), METHOD, overwrite=True) == placed


def test_a_worker_that_comes_late_finds_its_work_done(target: Store) -> None:
    late, first = slot(target), slot(target)
    placed = first.write(b"output", 1.0)
    assert late.write(b"output, rounded otherwise", 1.0) == placed
    assert target.read("ü b.png") == b"output"


def test_an_older_output_is_replaced_with_its_row_and_without(target: Store) -> None:
    slot(target).write(b"old", 1.0)
    newer = seen(target, ours=True, etag="source-2")
    slot(target, newer).write(b"new", 1.0)
    assert target.read("ü b.png") == b"new"
    other = replace(METHOD, options=Options(scale=3))
    slot(target, seen(target, etag="source-2"), other).write(b"other", 1.0)
    assert target.read("ü b.png") == b"other"


@pytest.mark.parametrize("by", ["a person", "a copy of another output"])
def test_what_no_batch_wrote_stays(target: Store, by: str) -> None:
    mark = Mark.of(Task(Entry("other", 3, "source-1")), METHOD, "f" * 64, 1.0)
    target.write("ü b.png", b"foreign", mark="" if by == "a person" else mark.to_text())
    with pytest.raises(ExistsError, match=r"ü b\.png exists .* overwrite=true"):
        find_slot(target, seen(target), METHOD, overwrite=False)
    with pytest.raises(ExistsError):  # it came after the plan
        slot(target).write(b"output", 1.0)
    assert target.read("ü b.png") == b"foreign"
    slot(target, seen(target), overwrite=True).write(b"output", 1.0)
    assert target.read("ü b.png") == b"output"


def test_our_output_that_somebody_replaced_stays(target: Store) -> None:
    slot(target).write(b"old", 1.0)
    task = seen(target, ours=True, etag="source-2")
    target.write("ü b.png", b"by hand")
    with pytest.raises(ExistsError):
        slot(target, task).write(b"new", 1.0)
    assert target.read("ü b.png") == b"by hand"


@pytest.mark.parametrize("damage", ["replaced", "cut"])
def test_a_mark_that_outlived_its_bytes_says_nothing(tmp_path: Path, damage: str) -> None:
    """Whoever writes into a file leaves its attributes."""
    target = connect(tmp_path)
    slot(target).write(b"output", 1.0)
    path = tmp_path / "ü b.png"
    path.write_bytes(b"foreign" if damage == "replaced" else b"out")
    assert Mark.read(target.stat("ü b.png").mark) is not None
    for task, method in (
        (seen(target), METHOD), (seen(target, etag="source-2"), METHOD), (seen(target), replace(METHOD, options=Options(scale=3))),
    ):  # fmt: skip
        with pytest.raises(ExistsError):
            find_slot(target, task, method, overwrite=False)
    with pytest.raises(ExistsError):
        slot(target).write(b"output", 1.0)
    slot(target, seen(target), overwrite=True).write(b"output", 1.0)
    assert path.read_bytes() == b"output"


def test_nothing_is_read_of_an_object_that_has_its_mark_of_one_write(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = connect(f"{s3.uri}/out")
    placed = slot(target).write(b"output", 1.0)
    monkeypatch.setattr("rayscale.batch.outputs._sha256", lambda *_: pytest.fail("it was read"))
    assert find_slot(target, seen(target), METHOD, overwrite=False) == placed


def test_an_output_that_went_away_is_made(target: Store) -> None:
    slot(target, replace(TASK, found="gone")).write(b"output", 1.0)
    assert target.read("ü b.png") == b"output"


def test_without_marks_equal_bytes_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without attributes."""
    monkeypatch.setattr("rayscale.storage.local._set_mark", lambda *_: None)
    monkeypatch.setattr("rayscale.storage.local._mark", lambda *_: None)
    target: LocalStore = connect(tmp_path)  # type: ignore[assignment]
    placed = slot(target).write(b"output", 1.0)
    assert slot(target, seen(target)).write(b"output", 1.0) == placed
    with pytest.raises(ExistsError):
        slot(target, seen(target)).write(b"another", 1.0)


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", "x", '{"key": "a"}'])
def test_what_is_no_mark(text: str | None) -> None:
    assert Mark.read(text) is None
