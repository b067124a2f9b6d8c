"""``rayscale prepare``: what its command line says to the preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from rayscale.cli import prepare, run
from rayscale.cli.app import app
from rayscale.data import PrepareConfig


@pytest.mark.parametrize(
    "words",
    [
        "--scales 2 3 --size 240 --bands 4 3 2 8 --exclude a* b/*",
        "--scales 2 --scales 3 --size=240 --exclude a* --bands 4 3 --bands 2 8 --exclude=b/*",
    ],
)
def test_an_option_takes_several_values(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(prepare, "cut", lambda *given: asked.append(given) or 0)
    assert run("prepare", "in", "out", *words.split()) == 0
    ((source, target, options, levels, concurrency),) = asked
    assert (source, target, levels, concurrency) == ("in", "out", None, None)
    assert {name: value for name, value in options.items() if value} == {
        "scales": [2, 3],
        "size": 240,
        "bands": [4, 3, 2, 8],
        "exclude": ["a*", "b/*"],
    }


def test_the_help_tells_the_defaults() -> None:
    command = typer.main.get_command(app).commands["prepare"]  # type: ignore[attr-defined]
    told = {each.name: each.help for each in command.params}
    for name in ("size", "step", "minimum", "images_per_shard", "registration"):
        assert told[name].endswith(f"Default: {getattr(PrepareConfig(), name)}.")


def test_an_option_that_the_configuration_refuses_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("prepare", str(tmp_path), "out", "--registration", "maybe") == 2
    assert "registration" in capsys.readouterr().err
