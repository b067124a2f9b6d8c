"""Without an extra, what needs it says so, and names the command that installs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayscale import extras, local
from rayscale.cli.app import app
from rayscale.errors import UnsupportedError
from rayscale.imaging import read_image


def test_an_extra_that_is_there_is_loaded() -> None:
    assert extras.load("json", "geo").loads("1") == 1


def test_the_local_stack_starts_nothing_without_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "swift", None)
    home = tmp_path / "home"
    with pytest.raises(UnsupportedError, match=r"the local stack needs .*'rayscale\[local\]'"):
        local.up(home)
    assert not home.exists()


def test_a_demo_without_its_photographs_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    answer = CliRunner().invoke(app, ["demo"])
    assert answer.exit_code == 1
    assert "rayscale[local]" in answer.stderr


def test_a_volume_without_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    nibabel = pytest.importorskip("nibabel")
    numpy = pytest.importorskip("numpy")
    data = nibabel.Nifti1Image(numpy.zeros((4, 4, 2), numpy.int16), numpy.eye(4)).to_bytes()
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UnsupportedError, match=r"NIfTI need the extra medical .*\[medical\]"):
        read_image(bytes(data))


def test_info_shows_the_whole_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: Path
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    answer = CliRunner().invoke(app, ["info", "scene.tif"])
    assert "'rayscale[geo]'" in "".join(answer.stdout.split("\n")).replace("  ", "")
