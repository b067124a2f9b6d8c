"""A command in a process of its own, and the signals that end it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

NATIVE = re.compile(r"\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] \w+\.cc:\d+: ")
OTHERS = ("pid=", "(raylet")

UNSET = ("PYTHONPATH", "RAY_ADDRESS", "RAYSCALE_DATASET", "MLFLOW_TRACKING_URI")


@contextmanager
def start(command: Sequence[str], **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The command outside any checkout and stack, what it says in one pipe; dead at the end with all it started."""
    environment = {key: value for key, value in os.environ.items() if key not in UNSET}
    # A child of what ignores it would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command, env=environment | variables, cwd="/", text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def interrupt(process: subprocess.Popen[str], number: signal.Signals, timeout_s: float) -> str:
    """Send a signal, Ctrl-C to all that the command started as a terminal does; what it says to its end.

    No process may be left.
    """
    children = psutil.Process(process.pid).children(recursive=True)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    rest, _ = process.communicate(timeout=timeout_s)
    assert psutil.wait_procs(children, timeout=20)[1] == []
    return rest


def own_lines(said: Iterable[str]) -> list[str]:
    """The lines of a command without those of Ray's processes, and of Ray's native part in its own."""
    return [
        line for line in said if not any(word in line for word in OTHERS) and not NATIVE.match(line)
    ]


def stop_job(client: Any, job: str, timeout_s: float) -> str:
    """What a submitted job said to its end, after ``ray job stop``."""
    from ray.job_submission import JobStatus

    end = time.monotonic() + timeout_s
    assert client.stop_job(job)
    while not client.get_job_status(job).is_terminal() and time.monotonic() < end:
        time.sleep(0.1)
    said: str = client.get_job_logs(job)
    assert client.get_job_status(job) == JobStatus.STOPPED, said
    return said
