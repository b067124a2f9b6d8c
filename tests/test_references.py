"""What pages and docstrings refer to exists: files of the repository, and modules and names of the package."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "platform/rayscale"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "infra").rglob("*.md")]
SOURCES = [
    path
    for top in ("platform", "jobs", "tune", "benchmarks")
    for path in (ROOT / top).rglob("*.py")
]

PATH = re.compile(
    r"(?<![\w./~@{}$:*-])((?:platform|jobs|serve|tune|tests|infra|docs|benchmarks)/[\w./-]*\w)"
)
NAME = re.compile(r"`(rayscale(?:\.\w+)+)(?:\(\))?`")

EXAMPLES = {"jobs/x.py", "platform/rayscale/models/bundled/NAME.json"}
MADE_BY_USERS = {"infra/docker/.env", "infra/kuberay/credentials.env"}
KEYS = {
    "rayscale.format",
    "rayscale.version",
    "rayscale.run",
    "rayscale.systems",
    "rayscale.degradation",
    # What an exported file knows (rayscale.inference.exported).
    "rayscale.flatfield",
    "rayscale.halo",
    "rayscale.id",
    "rayscale.input",
    "rayscale.json",
    "rayscale.levels",
    "rayscale.precision",
    "rayscale.scale",
    "rayscale.spec",
    "rayscale.weights",
}
"""Keys of metadata, tags and entry points, which look like names of the package."""


def _text(file: Path) -> str:
    """What is said of today: the changelog names what is gone."""
    text = file.read_text()
    return re.sub(r"^### Removed.*?(?=^##)", "", text, flags=re.M | re.S)


def test_files_exist() -> None:
    assert not {
        (str(file.relative_to(ROOT)), path)
        for file in [*PAGES, *SOURCES]
        for path in set(PATH.findall(_text(file))) - EXAMPLES - MADE_BY_USERS
        if not any(
            each.exists() for each in (ROOT / path, ROOT / f"{path}.py", ROOT / "tests" / path)
        )
    }


def test_names_exist() -> None:
    assert not {
        (str(file.relative_to(ROOT)), name)
        for file in [*PAGES, *SOURCES]
        for name in set(NAME.findall(_text(file))) - KEYS
        if not _exists(name)
    }


def _exists(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module, attributes = ".".join(parts[:length]), parts[length:]
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for each in attributes:
            if each in getattr(found, "__annotations__", {}):
                return True
            if not hasattr(found, each):
                return False
            found = getattr(found, each)
        return True
    return False
