"""``docs/faults.md`` and the table of operations: every row names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_fault_names_tests_that_are_there(checkout: Path) -> None:
    text = (checkout / "docs" / "faults.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| (?!fault or attack)", line)]
    assert len(rows) > 25
    for row in rows:
        fault, outcome, tests = (cell.strip() for cell in row.strip("|").split("|"))
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
        assert fault, row
        assert outcome, row
        assert " ".join(f"`{file}::{name}`" for file, name in named) == tests
        _require(checkout, named)


def test_each_of_the_26_that_must_survive_names_tests_that_are_there(checkout: Path) -> None:
    text = (checkout / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 27))
    for _, tests in rows:
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
        assert " ".join(f"`{file}::{name}`" for file, name in named) == tests
        _require(checkout, named)


def _require(checkout: Path, named: list[tuple[str, str]]) -> None:
    assert named
    for file, name in named:
        source = (checkout / "tests" / file).read_text()
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), (file, name)
