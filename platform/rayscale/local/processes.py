"""Programs in the background: starting them, finding them again, ending them with all they started; free ports.

Every program of a stack carries ``RAYSCALE_STACK=<home>`` in its environment. Its children inherit that, so they
are found even when their parent is gone; nothing of another stack or another user can match.
"""

from __future__ import annotations

import http.client
import os
import random
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from rayscale.errors import RayscaleError

MARK = "RAYSCALE_STACK"
SERVICE_MARK = "RAYSCALE_STACK_SERVICE"
_FREE_PORTS = range(
    20000, 30000
)  # below the ports the kernel gives to clients, above those Ray's workers take
_GRACE_S = 3.0


@dataclass(frozen=True)
class Service:
    """One program of the stack: how it is run, and how to see that it works."""

    name: str
    address: str
    command: list[str]
    environment: dict[str, str]
    cwd: Path
    ports: frozenset[int]
    ready: Callable[[], bool]
    timeout_s: float


def start(service: Service, home: Path, base: dict[str, str]) -> int:
    """Run a service in a session of its own, its output appended to ``<home>/logs/<name>.log``; returns its pid."""
    log = log_file(home, service.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    # SPT_NOENV keeps setproctitle (Ray's workers) from writing over the environment that carries the mark.
    environment = {**base, **service.environment, MARK: str(home), SERVICE_MARK: service.name}
    environment["SPT_NOENV"] = "1"
    with log.open("ab") as output:
        process = subprocess.Popen(
            service.command,
            cwd=service.cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process.returncode = (
        0  # it outlives us: the object must not watch over it, nor warn when it goes
    )
    return process.pid


def log_file(home: Path, name: str) -> Path:
    """Where a service's output goes."""
    return home / "logs" / f"{name}.log"


def is_ready(service: Service, home: Path, pid: int, waited_s: float) -> bool:
    """Whether the service answers by now; its end, or its ``timeout_s`` gone by, is an error with its last words.

    An answer counts where the service itself listens: another program may have been faster to its ``ports``.
    """
    if not alive(pid):
        trouble = "ended while starting"
    elif service.ready() and service.ports <= _listening(pid):
        return True
    elif waited_s > service.timeout_s:
        trouble = f"did not answer at {service.address} within {service.timeout_s:.0f} s"
    else:
        return False
    raise RayscaleError(f"{service.name} {trouble}; {_last_words(home, service.name)}")


def started_at(pid: int) -> float:
    """When the process started (seconds since the epoch): with the pid, its name forever; 0 if there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def alive(pid: int, started: float | None = None) -> bool:
    """Whether the process runs (a zombie does not) and is the one that started then."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            process.wait(0)
            return False
        return started is None or abs(process.create_time() - started) < 1
    except psutil.Error:
        return False


def _listening(pid: int) -> set[int]:
    """The TCP ports at which a process or one that it started listens."""
    ports = set()
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                connections = process.net_connections("tcp")
                ports |= {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}
    return ports


def find(
    home: Path, services: Collection[str], roots: Collection[tuple[int, float]] = ()
) -> list[psutil.Process]:
    """Every process of these services of the stack in ``home``, however it came to be.

    Those with the marks, and the sessions and descendants of ``roots`` (pairs of pid and start time).
    """
    found: dict[int, psutil.Process] = {}
    sessions = {pid for pid, started in roots if alive(pid, started)}
    for pid in sessions:
        with suppress(psutil.Error):
            root = psutil.Process(pid)
            found.update({p.pid: p for p in (root, *root.children(recursive=True))})
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            marks = process.environ()
            ours = marks.get(MARK) == str(home) and marks.get(SERVICE_MARK) in services
            if ours or os.getsid(process.pid) in sessions:
                found[process.pid] = process
    found.pop(os.getpid(), None)
    return list(found.values())


def end(processes: Callable[[], list[psutil.Process]]) -> None:
    """End processes: asked first, killed after 3 s; looked for again until none is left (they may fork)."""
    grace = _GRACE_S
    for _ in range(20):
        remaining = processes()
        if not remaining:
            return
        for process in remaining:
            try:
                process.terminate() if grace else process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(remaining, timeout=grace or 1.0)
        grace = 0.0
    raise RayscaleError(f"processes {[p.pid for p in remaining]} could not be ended")


def pick_port(preferred: int | None, taken: Collection[int]) -> int:
    """``preferred`` if nobody listens there on loopback, else a free one; never one of ``taken``."""
    candidates = [preferred] if preferred else []
    candidates += random.sample(_FREE_PORTS, 200)
    for port in candidates:
        if port not in taken and is_free(port):
            return port
    raise RayscaleError(f"no free port from {_FREE_PORTS.start} to {_FREE_PORTS.stop} on 127.0.0.1")


def is_free(port: int, wait_s: float = 0) -> bool:
    """Whether a server can listen on the port of loopback, now or within ``wait_s``.

    A killed server may look dead while the last of its threads still holds its sockets.
    """
    deadline = time.monotonic() + wait_s
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                probe.listen(1)
                return True
            except OSError:
                if time.monotonic() >= deadline:
                    return False
        time.sleep(0.05)


def answers(url: str, headers: dict[str, str] | None = None, part: bytes = b"") -> bool:
    """Whether a GET of ``url`` on loopback is answered within 2 s, with success and ``part`` in the body."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
    try:
        with opener.open(urllib.request.Request(url, headers=headers or {}), timeout=2) as answer:
            return bool(answer.status == 200) and part in answer.read()
    except (OSError, http.client.HTTPException, ValueError):  # also what does not speak HTTP
        return False


def _last_words(home: Path, name: str) -> str:
    path = log_file(home, name)
    lines = path.read_text(errors="replace").splitlines()[-8:] if path.is_file() else []
    return f"the end of {path} says:\n  " + "\n  ".join(lines)
