"""The papers of the house say what the code says."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import yaml

from rayscale import __version__, strictjson
from rayscale.batch import manifest as rows
from rayscale.batch import plan
from rayscale.data import manifest
from rayscale.inference import exported
from rayscale.models import weights
from rayscale.models.builtin import bundled_names, read_card
from rayscale.registry import version
from rayscale.training import checkpoint, run

TABLE_ROW = re.compile(r"^\| ([^|(]+?) (?:\([^|]*\) )?\| [^|]* \| `(\d+)` \|", re.M)


def test_compatibility_names_the_format_numbers_of_the_code(checkout: Path):
    page = (checkout / "docs/compatibility.md").read_text()
    assert dict(TABLE_ROW.findall(page)) == {
        "weights": weights.FORMAT,
        "export": exported.FORMAT,
        "dataset": str(manifest.FORMAT),
        "checkpoint": str(checkpoint.FORMAT),
        "result of a run": str(run.FORMAT),
        "rows of a batch": str(rows.FORMAT),
        "outputs of a batch": str(plan._FORMAT),
        "registered model": version.FORMAT,
        "JSON of `--json`, `table.json` and `scores.json`": str(strictjson.FORMAT),
    }


def test_notice_names_every_data_set_and_model(checkout: Path):
    notice = (checkout / "NOTICE").read_text()
    listed = re.sub(r", -", ", ", notice)
    for name in bundled_names():
        card = read_card(name)
        system, scales = name.rsplit("-", 1)
        assert re.search(rf"\b{system}-[^;:]*{scales}\b", listed), name
        for source in re.split(r"; ", card["data_licence"]):
            assert source.split(",")[0].split(" (")[0] in notice, source


def test_ci_runs_what_every_machine_runs_on_each_python(checkout: Path):
    workflow = yaml.safe_load((checkout / ".github/workflows/ci.yml").read_text())
    job = workflow["jobs"]["test"]
    assert any(step.get("run") == ".ci/run" for step in job["steps"])
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    pythons = job["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={pythons[0]},<3.{int(pythons[-1].split('.')[1]) + 1}"
    assert [f"Programming Language :: Python :: {each}" for each in pythons] == [
        each for each in project["classifiers"] if "Python ::" in each
    ]


def test_hooks_call_the_locked_tools(checkout: Path):
    hooks = yaml.safe_load((checkout / ".pre-commit-config.yaml").read_text())
    locked = (checkout / "requirements-dev.lock").read_text()
    for hook in hooks["repos"][0]["hooks"]:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        package = {"lint-imports": "import-linter"}.get(tool, tool)
        assert re.search(rf"^{package}==", locked, re.M), tool


def test_images_and_tag_have_the_version_of_the_package(checkout: Path):
    """The one place is ``rayscale.__version__``; a release is a tag of the same number with an entry in the changelog."""
    for file in (
        "infra/docker/compose.yaml",
        "infra/kuberay/base/raycluster.yaml",
        "infra/README.md",
    ):
        named = re.findall(r"rayscale(?:-mlflow)?:(\d[\w.]*)", (checkout / file).read_text())
        assert set(named) == {__version__}, file
    tags = subprocess.run(
        ["git", "tag", "--points-at", "HEAD", "v*"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert tags in ([], [f"v{__version__}"])
    changes = (checkout / "CHANGELOG.md").read_text()
    assert all(f"## [{tag[1:]}]" in changes for tag in tags)
