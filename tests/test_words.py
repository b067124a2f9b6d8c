"""What users read: the library speaks to every door, so its messages hold no words of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rayscale.errors import UnsupportedError, quantity
from rayscale.imaging import Image, write_image

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
PROGRAM = re.compile(r"\b(gdal_translate|ray start|curl|mlflow server|rayscale [a-z]+) [^.;]*$")
"""A whole command may have options."""

DOORS = ("cli", "local", "training/failure.py")
"""The command line, what starts programs, and the whole command by which a failed run goes on."""


def test_messages_name_options_as_every_door_knows_them(checkout: Path) -> None:
    library = checkout / "platform/rayscale"
    found = {
        f"{path.relative_to(library)}:{line}": text
        for path in sorted(library.rglob("*.py"))
        if not path.relative_to(library).as_posix().startswith(DOORS)
        for line, text in _texts(path)
        for option in OPTION.finditer(text)
        if not PROGRAM.search(text[: option.start()])
    }
    assert not found, "say labels=nearest rather than --labels nearest"


@pytest.mark.parametrize(
    ("shape", "container", "told"),
    [
        ((4, 4, 1), "webp", "the image has 1 channel of 16 bits"),
        ((4, 4, 4), "webp", "the image has 4 channels of 16 bits"),
        ((4, 4, 2), "jpeg", "the image has 2 channels of 16 bits"),
    ],
)
def test_one_thing_is_singular(shape: tuple[int, ...], container: str, told: str) -> None:
    with pytest.raises(UnsupportedError, match=told):
        write_image(Image(np.zeros(shape, np.uint16), container))
    assert [quantity(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a module that are not its docs; the parts of one text joined."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in node.values}
            yield node.lineno, "".join(_plain(part) for part in node.values)
        elif isinstance(node, ast.Constant) and id(node) not in docs | inner:
            yield node.lineno, str(node.value)


def _plain(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "X"
