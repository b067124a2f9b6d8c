"""What signals do to a command: real signals, to this process or to one that a test starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rayscale.interruption import Interrupted, attend, shield, watch

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def send(number: int) -> None:
    """The handler of ``number`` has run when this returns."""
    os.kill(os.getpid(), number)
    time.sleep(0)


@pytest.fixture(autouse=True)
def _handlers_stay() -> object:
    """As in a new process, also where this one was told to ignore a signal (``nohup``)."""
    found = {number: signal.getsignal(number) for number in CODES}
    new = [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]
    for number, handler in zip(CODES, new, strict=True):
        signal.signal(number, handler)
    yield
    left = [signal.getsignal(number) for number in CODES]
    for number, handler in found.items():
        signal.signal(number, handler)
    assert left == new


def interruption_of(work: Callable[[], object]) -> Interrupted:
    """What ``work`` ends with."""
    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert isinstance(caught.value, Interrupted)
    return caught.value


@pytest.mark.parametrize("number", CODES)
def test_the_first_signal_raises(number: signal.Signals) -> None:
    @watch()
    def work() -> None:
        send(number)
        time.sleep(30)

    assert interruption_of(work).code == CODES[number]


def test_a_deferred_signal_waits_for_the_end_of_the_block() -> None:
    done = []

    def work() -> None:
        with watch(deferred=True) as asked:
            assert asked() is None
            send(signal.SIGTERM)
            assert asked() == signal.SIGTERM
            done.append("saved")
        done.append("went on")

    assert interruption_of(work).code == 143
    assert done == ["saved"]


def test_blocks_nest_and_the_next_watch_starts_anew() -> None:
    @watch()
    def work() -> None:
        with watch(deferred=True) as asked:
            assert asked() is None
            send(signal.SIGTERM)
            raise Interrupted(signal.SIGTERM, "saved at step 3")

    for _ in range(2):
        ended = interruption_of(work)
        assert (ended.code, str(ended)) == (143, "saved at step 3")


@pytest.mark.parametrize("consequence", [KeyboardInterrupt, OSError])
def test_what_a_signal_causes_is_the_signal(consequence: type[BaseException]) -> None:
    """Ray turns what a handler raises into a plain KeyboardInterrupt; other libraries into errors of theirs."""

    @watch()
    def work() -> None:
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            raise consequence from None

    assert interruption_of(work).code == 143


def test_errors_without_a_signal_stay_what_they_are() -> None:
    @watch()
    def work(error: BaseException) -> None:
        raise error

    with pytest.raises(OSError, match="of its own"):
        work(OSError("of its own"))
    assert interruption_of(lambda: work(KeyboardInterrupt())).code == 130


def test_shielded_work_is_not_cut_short() -> None:
    with watch(), shield():
        send(signal.SIGTERM)


def test_attended_work_ends_by_itself() -> None:
    """The work is told once, and its end awaited; what it gives is not lost to whoever looks where it saved it."""
    stopped = threading.Event()
    saved: list[str] = []
    told: list[int] = []

    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.wait(30)
        saved.append("saved")

    def stop(number: int) -> None:
        told.append(number)
        stopped.set()

    assert interruption_of(lambda: attend(work, stop)).code == 143
    assert (told, saved) == ([signal.SIGTERM], ["saved"])
    assert attend(lambda: 3, stop) == 3
    with pytest.raises(ZeroDivisionError):
        attend(lambda: 1 // 0, stop)


def test_attended_work_that_has_nothing_to_save_is_left() -> None:
    never = threading.Event()

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        never.wait()

    def stop(number: int) -> None:
        raise Interrupted(number, "no step was saved yet")

    assert str(interruption_of(lambda: attend(work, stop))) == "no step was saved yet"


def test_a_thread_may_watch() -> None:
    given: list[int | None] = []

    def work() -> None:
        with watch() as asked:
            given.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert given == [None]


PROGRAM = """
import subprocess, sys, time
from rayscale.errors import ConfigError, RayscaleError
from rayscale.interruption import run

def work():
    try:
        child = subprocess.Popen(
            ["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        print("ready", child.pid, flush=True)
        for _ in range(600):  # a signal just before a sleep does not shorten it
            time.sleep(0.1)
    finally:
        print("cleaning", flush=True)
        time.sleep({cleaning})

try:
    code = run(work, "the same command goes on")
finally:
    print("ended", flush=True)
time.sleep({leaving})
sys.exit(code)
"""


def start(cleaning: float, leaving: float) -> tuple[subprocess.Popen[str], psutil.Process]:
    """The program, and a process that it has started."""
    program = PROGRAM.format(cleaning=cleaning, leaving=leaving)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "platform")}
    # As in a shell with job control: what runs in the background of others ignores Ctrl-C.
    unignored = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", unignored + program],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    said, child = process.stdout.readline().split()
    assert said == "ready"
    return process, psutil.Process(int(child))


@pytest.mark.parametrize("number", CODES)
def test_a_command_cleans_up_and_ends_with_the_code_of_its_signal(number: signal.Signals) -> None:
    process, child = start(0, 0)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (CODES[number], "cleaning\nended\n")
    assert err == "interrupted: the same command goes on\n"
    child.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("cleaning", "leaving"), [(60, 0), (0, 60)])
def test_the_second_signal_ends_at_once(cleaning: float, leaving: float) -> None:
    """While the command cleans up, and while the interpreter or Ray does after it; the code is that of the first.

    What the command has started ends with it.
    """
    process, child = start(cleaning, leaving)
    assert process.stdout is not None
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "cleaning\n"
    if leaving:
        assert process.stdout.readline() == "ended\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "")
    child.wait(timeout=30)
    assert "Traceback" not in err


def test_a_third_signal_changes_no_code() -> None:
    process, child = start(60, 0)
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    child.wait(timeout=30)
    assert "Traceback" not in err


def test_a_command_under_nohup_hears_no_hangup() -> None:
    code = (
        "import os, signal, time; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from rayscale.interruption import run\n"
        "def work():\n    os.kill(os.getpid(), signal.SIGHUP); time.sleep(0.01); return 0\n"
        "raise SystemExit(run(work))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "platform")}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
