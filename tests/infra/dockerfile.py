"""A Dockerfile as instructions and stages, and the matching rules of .dockerignore."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath


@dataclass
class Stage:
    """One ``FROM`` and what follows it: ``(instruction, arguments)`` pairs, continuation lines joined."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The arguments of each such instruction, in order."""
        return [arguments for name, arguments in self.instructions if name == instruction]


def parse(file: Path) -> tuple[dict[str, str], list[Stage]]:
    """The global arguments with their defaults, and the stages."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base.strip(), name.strip()))
        elif stages:
            stages[-1].instructions.append((instruction, rest.strip()))
        elif instruction == "ARG":
            key, _, value = rest.partition("=")
            arguments[key] = value
        else:
            raise ValueError(f"{instruction} before the first FROM")
    return arguments, stages


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps a path (relative, with /) out of the build context: the last match decides."""
    parents = [path, *(str(p) for p in PurePosixPath(path).parents if str(p) != ".")]
    result = False
    for pattern in patterns:
        expression = _expression(pattern.lstrip("!").strip("/"))
        # A pattern that matches a folder takes what is in it along.
        if any(expression.fullmatch(candidate) for candidate in parents):
            result = not pattern.startswith("!")
    return result


def _expression(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    table = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(table.get(part, re.escape(part)) for part in parts))
