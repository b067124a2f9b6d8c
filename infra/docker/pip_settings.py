"""Take this machine's settings of pip along into a build: what ``infra/docker/build`` calls.

    python3 infra/docker/pip_settings.py FOLDER PLACE

Writes ``FOLDER/pip.conf`` and copies the files that it names beside it, as they will be found at ``PLACE``. Prints the
folders that it names, a line each: they must be there under their own names.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

# Of the index and the way to it. Others, such as `user` or `target`, are about this machine.
TAKEN = {
    "cert",
    "constraint",
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "proxy",
    "timeout",
    "trusted-host",
}


def carry(settings: dict[str, str], folder: Path, place: str) -> list[str]:
    """Write the settings; returns the folders that they name."""
    lines, folders = ["[global]"], []
    for name, value in settings.items():
        words = []
        for number, word in enumerate(value.split()):
            path = Path(urlsplit(word).path if word.startswith("file:") else word)
            if path.is_absolute() and path.is_file():
                copy = f"{name}-{number}{path.suffix}"
                shutil.copyfile(path, folder / copy)
                words.append(f"{place}/{copy}")
                continue
            if path.is_absolute() and path.is_dir():
                # An index names its files by paths beside it.
                folders.append(str(path.parent if path.name == "simple" else path))
            words.append(word)
        lines.append(f"{name} = {' '.join(words)}")
    (folder / "pip.conf").write_text("\n".join(lines) + "\n")
    return folders


def read() -> dict[str, str]:
    """What ``pip config list`` shows, the environment last."""
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    settings: dict[str, str] = {}
    for line in sorted(shown.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        name = name.rpartition(".")[2]
        if name in TAKEN:
            settings[name] = value.strip("'\"").replace("\\n", " ")
    return settings


if __name__ == "__main__":
    for place in carry(read(), Path(sys.argv[1]), sys.argv[2]):
        print(place)
