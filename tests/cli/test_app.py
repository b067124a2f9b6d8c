"""How commands of ``rayscale`` end, whichever it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rayscale import __version__
from rayscale.cli import run

PROGRAM = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from rayscale.cli import app, main

@app.app.command()
def wait():
    try:
        print("ready", flush=True)
        for _ in range(600):  # a signal just before a sleep does not shorten it
            time.sleep(0.1)
    finally:
        print("cleaned up", flush=True)

main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_a_command_clean_up(checkout: Path, number: int, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "wait"],
        env=os.environ | {"PYTHONPATH": str(checkout / "platform")},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "cleaned up\n", "interrupted\n")


def test_an_alias_that_cannot_be_is_refused_before_the_scores(checkout: Path) -> None:
    command = [sys.executable, "-m", "rayscale", "register", "/no/weights", "--name", "mine"]
    done = subprocess.run(
        [*command, "--alias", "latest", "--data", "/no/benchmark"],
        env=os.environ | {"PYTHONPATH": str(checkout / "platform")},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert "'latest' is not an alias" in done.stderr


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"rayscale {__version__}\n"
