"""Wrap the prose of Markdown files at 120 columns; paragraphs of whole sentences that fit stay as they are.

    python docs/wrap.py [FILE ...]     without files: all pages

Tables, code, headings and images are left alone, `code` and [links](...) are never broken.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

WIDTH = 120
ROOT = Path(__file__).parents[1]

_ITEM = re.compile(r"\s*(?:[-*]|\d+\.|:)\s+")
_APART = re.compile(r"\s*$|\s*\||[#<!]|:::|---|    ")  # what is not prose
_TOKEN = re.compile(r"(?:`[^`]*`|\[[^\]]*\]\([^)]*\)|[^\s`\[]|\[(?![^\]]*\]\()|`)+")


def wrap(text: str) -> str:
    """The text with every paragraph and list item wrapped."""
    out: list[str] = []
    block: list[str] = []
    fenced = False
    for line in [*text.split("\n"), None]:
        fence = line is not None and line.lstrip().startswith("```")
        prose = line is not None and not fenced and not fence and not _APART.match(line)
        if not prose or (line and _ITEM.match(line)):
            out += _fill(block) if _is_ragged(block) else block
            block = []
        if prose and line is not None:
            block.append(line)
        elif line is not None:
            out.append(line)
        fenced ^= fence
    return "\n".join(out)


def _is_ragged(lines: list[str]) -> bool:
    """Whether a line is too long, or ends early without the end of a sentence."""
    if any(len(line) > WIDTH for line in lines):
        return True
    return any(
        not re.search(r'[.:!?;][*_)"`]*$', line) and len(line) + 12 < WIDTH for line in lines[:-1]
    )


def _fill(lines: list[str]) -> Iterator[str]:
    match = _ITEM.match(lines[0]) or re.match(r"\s*", lines[0])
    line = match[0] if match else ""
    margin, empty = " " * len(line), True
    for token in _TOKEN.findall(" ".join(lines)[len(line) :]):
        if not empty and len(line) + 1 + len(token) > WIDTH:
            yield line
            line, empty = margin, True
        line, empty = line + token if empty else f"{line} {token}", False
    yield line


def main() -> None:
    pages = [Path(name) for name in sys.argv[1:]]
    for page in pages or [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text()
        if page.parent.name != "reference" and (wrapped := wrap(text)) != text:
            page.write_text(wrapped)
            print(page, "wrapped")


if __name__ == "__main__":
    main()
