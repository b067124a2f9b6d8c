"""Rules about the tree as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOP_LEVEL = {
    "platform", "jobs", "serve", "tune", "tests", "infra", "docs", "benchmarks", ".ci",
    "pyproject.toml", "README.md", "Makefile", "requirements.lock", "requirements-hashed.lock", "requirements-dev.lock", "requirements-docs.lock",
    "LICENSE", "NOTICE", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "mkdocs.yml",
    ".gitignore", ".dockerignore", ".github", ".pre-commit-config.yaml", ".secrets.baseline",
}  # fmt: skip


def _tracked(checkout: Path) -> list[Path]:
    out = subprocess.run(
        ["git", "ls-files", "-z"], cwd=checkout, capture_output=True, text=True, check=False
    )
    if out.returncode:
        pytest.skip("not a git checkout")
    return [Path(name) for name in out.stdout.split("\0") if name]


def test_the_standard_library_keeps_its_platform_module(checkout):
    """With an ``__init__.py`` in platform/, ``import platform`` from the root would find ours, and Ray would die."""
    assert not (checkout / "platform" / "__init__.py").exists()
    code = "import platform, ray; print(platform.system())"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() in ("Linux", "Darwin")


def test_top_level_folders_are_fixed(checkout):
    assert {path.parts[0] for path in _tracked(checkout)} <= TOP_LEVEL


def test_no_merge_was_left_half_done(checkout):
    marker = re.compile(rb"^(?:<{7}|>{7})", re.M)
    files = [path for path in _tracked(checkout) if (checkout / path).is_file()]
    assert len(files) > 200
    for path in files:
        data = (checkout / path).read_bytes()
        assert b"\0" in data or not marker.search(data), path


def test_scripts_are_doors(checkout):
    """Programs of a few lines under their commands; what they do is in the package, which runs no script."""
    for path in [*(checkout / "jobs").glob("*.py"), *(checkout / "tune").glob("*.py")]:
        text = path.read_text()
        assert text.startswith("#!/usr/bin/env python3\n"), path
        assert path.stat().st_mode & 0o111, path
        assert len(text.split('"""')[2].splitlines()) < 15, path
    for path in (checkout / "platform").rglob("*.py"):
        assert not re.search(r"runpy|sys\.path\b", path.read_text()), path


def test_importing_the_package_and_its_command_line_is_light():
    heavy = ("torch", "ray", "mlflow", "boto3", "numpy", "pyarrow", "PIL")
    code = f"import sys, rayscale.cli; print([m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_the_lock_satisfies_the_declared_dependencies(checkout):
    from packaging.requirements import Requirement

    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    pins = dict(
        re.findall(r"^([a-z0-9-]+)==(\S+)", (checkout / "requirements.lock").read_text(), re.M)
    )
    for line in project["dependencies"] + project["optional-dependencies"]["local"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[requirement.name.lower()]), line


def test_every_pin_but_torch_has_hashes(checkout):
    text = (checkout / "requirements-hashed.lock").read_text()
    hashed = re.findall(
        r"^([a-z0-9.-]+)==(\S+)(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n", text, re.M
    )
    assert len(hashed) == len(re.findall("==", text))
    pins = re.findall(r"^([a-z0-9.-]+)==(\S+)", (checkout / "requirements.lock").read_text(), re.M)
    assert hashed == [pin for pin in pins if pin[0] != "torch"]


def test_locks_name_no_registry(checkout):
    for name in (
        "requirements.lock",
        "requirements-dev.lock",
        "requirements-docs.lock",
        "requirements-hashed.lock",
        "pyproject.toml",
    ):
        text = (checkout / name).read_text()
        assert not re.search(r"--(extra-)?index-url|--find-links|https?://", text), name
