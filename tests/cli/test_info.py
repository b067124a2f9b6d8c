"""``rayscale info``: findings for people, and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
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


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("photo.png", ["container png", "48 x 64, 3 channels, ", "as a whole, in about"]),
        ("scene.tif", ["container geotiff", "crs EPSG:32632", "levels", "64 x 48, by windows"]),
        ("brain.nii.gz", ["container nifti-gz", "3 slices", "1 channel, int16"]),
        ("slice.dcm", ["container dicom", "1 channel", "levels"]),
        ("pages.tif", ["2 pages", "refused: TIFF is a stack of 2 pages"]),
        ("text.png", ["refused: not an image"]),
        ("classes.png", ["note", "labels=nearest"]),
        ("rgba.png", ["3 channels and alpha"]),
    ],
)
def test_every_finding_has_a_row(inputs: Path, name: str, told: list[str]) -> None:
    """Of each container that is read, of what is refused, and of what is only noted."""
    Image.new("L", (7, 5)).save("pages.tif", save_all=True, append_images=[Image.new("L", (7, 5))])
    Path("text.png").write_text("no picture")
    Image.new("RGBA", (7, 5)).save("rgba.png")
    fields = np.kron(np.random.default_rng(0).choice([3, 40, 200], (8, 8)), np.ones((9, 9)))
    Image.fromarray(fields.astype(np.uint8)).save("classes.png")
    code, out = run(name, "--scale", 2)
    shown = " ".join(out.split())
    assert code == 0
    assert not [each for each in told if each not in shown], shown
