"""That the chaos run sees what is lost, wrong or too much, without a lab."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from benchmarks import chaos, train_kill_run
from benchmarks.kill_report import compare, rest_of
from benchmarks.undisturbed import Output
from infra.lab.faults import Outage
from infra.lab.service import Attempt
from infra.lab.training import Record

from rayscale import strictjson
from rayscale.storage.local import LocalStore

RIGHT = Attempt("a", 10, 11, 200, right=True)
LOSSES = [1.0 / step for step in range(1, 9)]  # two epochs
EPOCH = train_kill_run.ROWS // train_kill_run.BATCH


@pytest.mark.parametrize(
    ("attempts", "wrong"),
    [
        ([RIGHT], []),
        ([Attempt("a", 1, 2, 503, again=True), Attempt("b", 3, 4, 429, again=True), RIGHT], []),
        ([Attempt("a", 1, 2, said="ConnectError", heard=False), RIGHT], []),
        ([Attempt("b", 1, 6, said="ReadError"), RIGHT], []),
        ([Attempt("a", 1, 6, said="ReadError"), RIGHT], ["a request: nothing of a: ReadError"]),
        ([Attempt("b", 1, 4, said="ReadError"), RIGHT], ["a request: nothing of b: ReadError"]),
        ([Attempt("b", 8, 9, said="ReadError"), RIGHT], ["a request: nothing of b: ReadError"]),
        ([Attempt("b", 1, 6, 500, said="no"), RIGHT], ["a request: 500 of b: no"]),
        ([Attempt("b", 1, 6, 503, said="later"), RIGHT], ["a request: 503 of b: later"]),
        ([Attempt("a", 1, 2, 200, said="other"), RIGHT], ["a request: 200 of a: other"]),
        ([Attempt("a", 1, 2, 503, again=True)], ["a request was never answered"]),
        ([], ["a request was never answered"]),
    ],
)
def test_a_request_is_lost_or_not(attempts: list[Attempt], wrong: list[str]) -> None:
    """Host b had no power from 5 to 7 s."""
    outages = [Outage("b", 5, 7)]
    found = list(chaos.judge([[RIGHT], attempts], outages))
    assert len(found) == len(wrong)
    assert all(line.startswith(start) for line, start in zip(found, wrong, strict=True))
    report = chaos.Report(train_kill_run.Report(0))
    chaos.count_requests([[RIGHT], attempts], outages, report)
    assert (report.requests, report.wrong) == (2, found)


@pytest.fixture
def target(tmp_path: Path) -> LocalStore:
    """What a batch of two inputs leaves."""
    target = LocalStore(tmp_path)
    rows = []
    for key, data in (("1.png", b"one"), ("2.png", b"two")):
        etag = target.write(key, data)
        size, sha256 = Output.of(data)
        rows.append(
            {"key": key, "status": "done", "message": "", "error": "", "output_etag": etag}
            | {"output_size": size, "output_sha256": sha256}
        )
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file)
    target.write("_rayscale/manifest.parquet", file.getvalue())
    target.write(
        "_rayscale/manifest.jsonl", "".join(f"{strictjson.dumps(row)}\n" for row in rows).encode()
    )
    target.write("_rayscale/failures.jsonl", b"")
    return target


def found_in(target: LocalStore) -> list[str]:
    expected = {"1.png": Output.of(b"one"), "2.png": Output.of(b"two")}
    return [*compare(target, set(expected), expected), *rest_of(target)]


def test_what_is_right_is_not_wrong(target: LocalStore) -> None:
    assert found_in(target) == []


def test_a_lost_output_is_found(target: LocalStore) -> None:
    target.delete("2.png")
    assert "2.png is missing" in found_in(target)


def test_a_wrong_byte_is_found(target: LocalStore) -> None:
    target.write("2.png", b"twO")
    assert "2.png differs from an undisturbed run" in found_in(target)


def test_an_output_too_many_is_found(target: LocalStore) -> None:
    target.write("3.png", b"two")
    assert found_in(target) == ["3.png should not be"]


def test_an_output_that_was_written_again_is_found(target: LocalStore) -> None:
    """The bytes are right, but the manifest tells another object."""
    target.delete("1.png")
    target.write("1.png", b"other")
    target.write("1.png", b"one")
    assert found_in(target) == ["the row of 1.png does not tell its object"]


def test_a_missing_row_is_found(target: LocalStore) -> None:
    lines = target.read("_rayscale/manifest.jsonl").splitlines(keepends=True)
    target.write("_rayscale/manifest.jsonl", lines[0])
    assert found_in(target) == ["the manifest does not have exactly one row per input"]


def test_a_window_that_was_left_is_found(target: LocalStore) -> None:
    target.write("_rayscale/scenes/x/000001.npz", b"part")
    assert found_in(target) == ["1 windows were left"]


def told(folder: Path, losses: list[float], skip: int = -1, twice: int = -1) -> list[str]:
    """What is found wrong in a training with these losses."""
    folder.mkdir(exist_ok=True)
    steps = [f"{1 + number // 5} {number + 1} {loss!r}" for number, loss in enumerate(losses)]
    (folder / "steps").write_text("".join(f"{line}\n" for line in steps))
    with (folder / "rows").open("w") as file:
        for step in range(2 * EPOCH):
            first = step % EPOCH * train_kill_run.BATCH
            rows = range(first, first + train_kill_run.BATCH)
            if step != skip:
                pairs = " ".join(f"{slot}:{row}" for slot, row in enumerate(rows))
                file.write(f"{step} {pairs}\n")
            if step == twice:
                file.write(f"{step} 0:{first + 1}\n")
    report = train_kill_run.Report(2 * EPOCH)
    train_kill_run.check(Record(folder), LOSSES, report)
    return report.wrong


def test_a_training_that_lost_something_is_found(tmp_path: Path) -> None:
    """A loss, a step, the rows of a step, and a row that was drawn in place of another."""
    assert told(tmp_path, LOSSES) == []
    assert told(tmp_path, [*LOSSES[:-1], LOSSES[-1] * 1.02]) == [
        "a loss is not that of the undisturbed run"
    ]
    assert told(tmp_path, LOSSES[:-1]) == ["1 steps were not told"]
    assert told(tmp_path, LOSSES, skip=5) == ["the epoch from step 5 does not have every row once"]
    assert told(tmp_path, LOSSES, twice=2) == ["a slot of a step was drawn in two ways"]


def test_a_machine_without_hosts_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["chaos.py"])
    assert chaos.main() == 2
    assert "no hosts: hosts need root" in capsys.readouterr().err


def test_the_summary_says_what_was_wrong() -> None:
    report = chaos.Report(train_kill_run.Report(8), wrong=["a request was never answered"])
    report.training.wrong.append("1 steps were not told")
    *table, first, second = report.to_markdown().splitlines()
    assert table[-1] == "| wrong | 2 |"
    assert (first, second) == ("- a request was never answered", "- 1 steps were not told")
