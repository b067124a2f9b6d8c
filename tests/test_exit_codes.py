"""``docs/exit-codes.md`` is the one table: every row names a test, and what has no test elsewhere is tested here."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from rayscale import local
from rayscale.cli import main
from rayscale.settings import get_settings

JOBS = {
    **dict.fromkeys(
        ("jobs/train.py", "jobs/train_edsr.py", "jobs/train_mdsr.py"), "jobs/train*.py"
    ),
    "jobs/prepare_dataset.py": "",
    "jobs/evaluate.py": "",
    "jobs/upscale_bucket.py": "",
    "benchmarks/warm_start_study.py": "",
    "tune/sweep_edsr.py": "",
}


def rows(checkout: Path) -> list[list[str]]:
    """Command, code, when, test."""
    text = (checkout / "docs" / "exit-codes.md").read_text()
    cells = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in cells if len(row) == 4][1:]


def test_every_row_names_a_test_that_looks_for_its_code(checkout: Path) -> None:
    table = rows(checkout)
    assert len(table) > 40
    for command, code, when, test in table:
        match = re.fullmatch(r"`([\w/]+\.py)::(test_\w+)`", test)
        assert match, f"{command} {code}: {test}"
        source = (checkout / "tests" / match[1]).read_text()
        # With what parametrizes it above, up to the next function.
        part = re.search(
            rf"(\n\n\n(?:(?!\n\n\n).)*)?\ndef {match[2]}\(.*?(?=\n\n\n|\Z)", source, re.S
        )
        assert part, f"{command} {code}: {test} is not there"
        assert re.search(rf"\b{code}\b|CODES", part[0]), f"{command} {code}: {test}"
        assert when


def test_every_job_tells_the_codes_of_the_table(checkout: Path) -> None:
    table = rows(checkout)
    for script, row in JOBS.items():
        usage = runpy.run_path(str(checkout / script))["__doc__"]
        told = re.search(r"Exit codes: (.*)", usage, re.S)
        assert told, script
        codes = set(re.findall(r"(?:^|[,;]\s)(\d+) ", told[1]))
        documented = {code for command, code, *_ in table if command == f"`{row or script}`"}
        assert codes == documented, script


def code_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rayscale", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("evaluate --data /no/benchmark", 1),
        ("evaluate --protocol mine --data /no/benchmark", 2),
        ("models", 0),
        ("settings --json", 0),
        ("register /no/weights --name mine", 1),
    ],
)
def test_codes_of_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, code: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert code_of(monkeypatch, *command.split()) == code
    assert ("error: " in capsys.readouterr().err) == (code > 0)


def test_status_tells_by_its_code_whether_all_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("RAYSCALE_HOME", str(tmp_path / "home"))
    get_settings.cache_clear()
    assert code_of(monkeypatch, "status") == 1
    assert "`rayscale up` starts one" in capsys.readouterr().err
    try:
        local.up(tmp_path / "home", ("s3",), fixed_ports=False)
        assert code_of(monkeypatch, "status") == 0
    finally:
        local.down(tmp_path / "home")
    assert code_of(monkeypatch, "status") == 1
    get_settings.cache_clear()
