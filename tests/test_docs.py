"""The documentation is true: its commands and code run, its pages are linked, what is generated is up to date.

Blocks marked ``bash`` and ``python`` are run, all of a page in one folder, from top to bottom. Blocks marked ``sh`` and ``py``
need servers, clusters or hours: commands in them must exist with the options they name. ``text`` is what is shown.
"""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pytest
import rasterio
import typer
import yaml
from tests.imaging.dicom_objects import saved, scan
from typer.testing import CliRunner

from rayscale.cli.app import app
from rayscale.models.builtin import bundled_names, read_card
from rayscale.training.config import load_config

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
WRITTEN = [page for page in PAGES if page.parent.name != "reference" or page.name == "python.md"]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _blocks(page: Path, *kinds: str) -> list[tuple[str, str]]:
    return [(kind, text) for kind, text in BLOCK.findall(page.read_text()) if kind in kinds]


def _lines(block: str) -> list[str]:
    """Commands of a block, those that go on in the next line joined."""
    return [line for line in re.sub(r"\\\n\s*", "", block).splitlines() if line.strip()]


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of; it is the current one."""
    random = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    pixels = random.integers(0, 256, (32, 24, 3), np.uint8)
    PIL.Image.fromarray(pixels).resize((48, 64)).save("photo.png")
    geo: dict[str, Any] = {
        "driver": "GTiff",
        "width": 32,
        "height": 24,
        "count": 3,
        "dtype": "uint16",
    }
    place = rasterio.transform.from_origin(500_000, 5_000_000, 10, 10)
    with rasterio.open("scene.tif", "w", **geo, crs="EPSG:32632", transform=place) as scene:
        scene.write(random.integers(500, 4000, (3, 24, 32), np.uint16))
    Path("slices").mkdir()
    for number in (1, 2):
        elements = {"InstanceNumber": number, "SOPInstanceUID": f"1.2.3.{number}"}
        Path(f"slices/{number}.dcm").write_bytes(saved(scan(**elements)))
    Path("slice.dcm").write_bytes(Path("slices/1.dcm").read_bytes())
    volume = random.integers(0, 1000, (20, 24, 3)).astype(np.int16)
    nibabel.Nifti1Image(volume, np.diag([1.0, 1.0, 2.0, 1.0])).to_filename("brain.nii.gz")
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if _blocks(p, "bash", "python")], ids=_name)
def test_what_a_page_runs_works(page: Path, inputs: Path):
    for kind, text in _blocks(page, "bash", "python"):
        if kind == "python":
            exec(compile(text, _name(page), "exec"), {})
        else:
            for line in _lines(text):
                _run(line)


def _run(line: str) -> None:
    """One command; those of rayscale in this process, which has loaded what they need."""
    if not line.startswith("rayscale "):
        subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True)
        return
    answer = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
    assert answer.exit_code == 0, (line, answer.output)


def _unrun() -> list[list[str]]:
    """The commands of blocks marked ``sh`` and of tables, `ray job submit` taken off, without comments; each once."""
    lines = [
        line
        for page in PAGES
        for line in (
            *(line for _, text in _blocks(page, "sh") for line in _lines(text)),
            *re.findall(
                r"^\|.*\| `((?:rayscale|python|make|ray job) [^`]+)` ", page.read_text(), re.M
            ),
        )
    ]
    lines = [re.sub(r"^ray job submit .*?-- ", "", line) for line in dict.fromkeys(lines)]
    words = [shlex.split(line, comments=True) for line in lines]
    return [each for each in words if each and "..." not in each]


@pytest.mark.parametrize("command", [c for c in _unrun() if c[0] == "make"], ids=" ".join)
def test_make_targets_exist(command: list[str]):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(command[1:]) <= set(targets)


@pytest.mark.parametrize("command", [c for c in _unrun() if c[0] == "rayscale"], ids=" ".join)
def test_commands_exist_with_these_options(command: list[str]):
    known = typer.main.get_command(app).commands[command[1]]  # type: ignore[attr-defined]
    if not known.context_settings.get("ignore_unknown_options"):  # else a job parses them
        given = {word.split("=")[0] for word in command[2:] if word.startswith("--")}
        assert given <= {name for each in known.params for name in each.opts} | {"--help"}


@pytest.mark.parametrize("command", [c for c in _unrun() if c[0] == "python"], ids=" ".join)
def test_scripts_take_these_arguments(command: list[str]):
    script, *arguments = command[1:]
    if script.startswith(("jobs/", "tune/")):
        options = runpy.run_path(str(ROOT / script))["parse"](arguments)
        load_config(None, getattr(options, "set", []))
    else:
        assert (ROOT / script).is_file()


def test_the_readme_is_short_and_begins_with_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 120
    assert re.search(r"## Two commands.*?```sh\nmake demo .*\nmake test .*\n```", readme, re.S)


def test_the_zoo_shows_what_the_cards_say():
    page = (DOCS / "zoo.md").read_text()
    for name in bundled_names():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        for row in read_card(name)["figures"]:
            assert f"{row['psnr']:.2f}" in line, (name, row)


def test_generated_pages_are_up_to_date():
    answer = subprocess.run(
        [sys.executable, DOCS / "pages.py", "--check"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, f"{answer.stdout}{answer.stderr}run `make docs-pages`"


def test_every_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        """Knows mkdocs' own tags."""

    site = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    listed: set[str] = set()

    def collect(entry: Any) -> None:
        if isinstance(entry, str):
            listed.add(entry)
        for part in (
            entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
        ):
            collect(part)

    collect(site["nav"])
    records = {f"decisions/{page.name}" for page in (DOCS / "decisions").glob("0*.md")}
    assert listed | records == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_every_decision_is_in_the_list_with_its_date():
    index = (DOCS / "decisions/index.md").read_text()
    for page in (DOCS / "decisions").glob("0*.md"):
        date = re.search(r"^Date: (\d{4}-\d\d-\d\d)\. Status: ", page.read_text(), re.M)
        assert date, page
        assert re.search(rf"\[{page.name[:4]} [^]]+\]\({page.name}\) \| {date[1]} \|", index), page


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_to_files(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|#", link):
            assert (page.parent / link.split("#")[0]).is_file(), link


@pytest.mark.parametrize("page", WRITTEN, ids=_name)
def test_lines_are_wrapped(page: Path):
    """Tables, code and links cannot be wrapped."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    long = [
        line
        for line in text.splitlines()
        if len(line) > 120 and not line.startswith(("|", "!", "<", "`"))
    ]
    assert not long, "run `make docs-pages`"
