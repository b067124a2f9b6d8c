"""``rayscale info``: findings for people, and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from rayscale.cli.app import app


def run(*arguments: object) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["info", *map(str, arguments)])
    return answer.exit_code, answer.stdout


def test_a_file_is_shown_with_what_would_become_of_it(tmp_path: Path) -> None:
    Image.new("RGB", (7, 5)).save(tmp_path / "a.png")
    code, out = run(tmp_path / "a.png", "--scale", 3)
    assert code == 0
    assert "7 x 5, 3 channels" in out
    assert "21 x 15" in out


def test_brackets_and_colons_of_a_name_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (7, 5)).save("a[red]:cat:.png")
    assert "a[red]:cat:.png" in run("a[red]:cat:.png")[1]


def test_json_is_the_whole_finding(tmp_path: Path) -> None:
    Image.new("L", (7, 5)).save(tmp_path / "a.png")
    code, out = run(tmp_path / "a.png", "--json", "--levels", "0..100")
    assert code == 0
    found = json.loads(out)
    assert (found["container"], found["channels"], found["refusal"]) == ("png", 1, None)
    assert found["levels"]["rule"] == "0 to 100, as set"


@pytest.mark.parametrize("name", ["a.tif.msk"])
def test_a_file_beside_it_that_would_refuse_an_upscale_is_found(tmp_path: Path, name: str) -> None:
    Image.new("L", (7, 5)).save(tmp_path / "a.tif")
    (tmp_path / name).write_bytes(b"x")
    code, out = run(tmp_path / "a.tif", "--json")
    assert code == 0
    assert name in json.loads(out)["refusal"]


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert run(tmp_path / "none.png")[0] == 2
