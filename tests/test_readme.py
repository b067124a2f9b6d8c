"""The README's commands are real: cheap ones run, the others are parsed by the program they name."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayscale.models.builtin import bundled_names, read_card
from rayscale.training.config import load_config

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(), re.M | re.S)
LINES = [line for _, block in BLOCKS for line in block.splitlines()]


def _commands(*starts: str) -> list[list[str]]:
    """Commands that begin with one of ``starts``, `ray job submit` taken off, without comments."""
    lines = [re.sub(r"^ray job submit .*?-- ", "", line) for line in LINES]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(starts)]


def test_there_are_commands_to_check():
    assert len(_commands("python ")) >= 6
    assert len(_commands("make ")) >= 2


@pytest.mark.parametrize("command", _commands("make "), ids=" ".join)
def test_make_targets_exist(command, checkout):
    targets = re.findall(r"^([a-z-]+):", (checkout / "Makefile").read_text(), re.M)
    assert command[1] in targets


@pytest.mark.parametrize("command", _commands("python "), ids=" ".join)
def test_jobs_take_these_arguments(command, checkout):
    script, *arguments = command[1:]
    parse = runpy.run_path(str(checkout / script))["parse"]
    options = parse(arguments)
    load_config(None, getattr(options, "set", []))


@pytest.mark.parametrize("command", _commands("rayscale "), ids=" ".join)
def test_commands_exist(command):
    answer = subprocess.run(
        [sys.executable, "-m", "rayscale", command[1], "--help"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0
    for option in (word for word in command if word.startswith("--")):
        assert option in answer.stdout, option


def test_the_first_steps_run(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    commands = _commands(".venv/bin/rayscale ")
    assert len(commands) == 4
    for command in commands:
        subprocess.run([sys.executable, "-m", "rayscale", *command[1:]], cwd=tmp_path, check=True)
    assert Image.open(tmp_path / "larger.png").size == (80, 60)
    assert Image.open(tmp_path / "smaller.png").size == (16, 12)


def test_pictures_and_pages_it_links_exist(checkout):
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())
    for link in links:
        assert (checkout / link).is_file(), link


def test_the_zoo_shows_what_the_cards_say(checkout):
    page = (checkout / "docs" / "zoo.md").read_text()
    for name in bundled_names():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        for row in read_card(name)["figures"]:
            assert f"{row['psnr']:.2f}" in line, (name, row)
