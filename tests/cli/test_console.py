"""What commands print goes whole into files and other programs."""

from __future__ import annotations

import pytest
from rich.table import Table

from rayscale.cli.console import print_table


def test_a_table_in_a_pipe_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    place, reason = "s3://bucket/" + "x" * 90, "word " * 40 + "end"
    caption = "a caption of more than eighty columns " * 3 + "end"
    table = Table("place", "why", caption=caption)
    table.add_row(place, reason)
    print_table(table)
    lines = capsys.readouterr().out.splitlines()
    assert any(place in line and reason in line for line in lines)
    assert any(caption in line for line in lines)
    assert all(line == line.rstrip("\n") for line in lines)


def test_who_names_a_width_gets_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    table = Table("why")
    table.add_row("word " * 40)
    print_table(table)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60
