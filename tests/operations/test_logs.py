"""One id leads from a request to its log lines, rows and runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rayscale.batch.manifest import Manifest, Row
from rayscale.cli import run
from rayscale.errors import ConfigError
from rayscale.operations import logs
from rayscale.storage import connect

ID = "an-id-of-this-test-0123"


def test_lines_with_the_id_are_found_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "serve").mkdir()
    lines = [
        json.dumps({"event": "request", "id": name, "time": 12.5}) for name in (ID, "other-id-0123")
    ]
    (tmp_path / "serve/replica.log").write_text("\n".join(lines))
    (tmp_path / "worker.err").write_text(f"(pid=3) {lines[0]}\nnothing\n")
    (tmp_path / "image.png").write_text(ID)
    found = logs.find_lines([tmp_path, tmp_path / "none"], ID)
    assert [(Path(line.file).name, line.time) for line in found] == [
        ("replica.log", 12.5),
        ("worker.err", 12.5),
    ]


@pytest.mark.parametrize("text", ["", "short", "two words are none", "x" * 129])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an id"):
        logs.check_id(text)


def test_a_process_keeps_the_id_that_it_was_given(checkout: Path) -> None:
    code = "from rayscale import correlation as c; c.tell('x', bytes=3); print(c.current(), c.current())"
    told = []
    for given in ({"RAYSCALE_ID": ID}, {}, {"RAYSCALE_ID": "not\nsound"}):
        environment = {"PYTHONPATH": str(checkout / "platform"), **given}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
        first, second = done.stdout.split()
        assert first == second == json.loads(done.stderr)["id"]
        told.append(first)
    assert told[0] == ID
    assert len(set(told)) == 3


def test_rows_of_older_batches_have_no_id() -> None:
    row = json.loads(Row("a", "", 0, "", "", "").to_json())
    del row["run"]
    assert Row.from_json(json.dumps(row)).run == ""


def test_rows_are_found_in_their_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    manifest = Manifest(connect(tmp_path), 1)
    manifest.append(
        [Row(key, "e", 1, "r", "m", "d", run=run_) for key, run_ in (("a", ID), ("b", "x" * 9))]
    )
    manifest.flush()
    assert run("logs", ID, str(tmp_path), "--json") == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert json.loads(line["text"])["key"] == "a"
    assert run("logs", "unknown-id-0123", str(tmp_path)) == 1
    assert "nothing is known of unknown-id-0123" in capsys.readouterr().err
