"""``docs/faults.md``: every row names tests that are there."""

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
        for file, name in named:
            source = (checkout / "tests" / file).read_text()
            assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), (fault, name)
