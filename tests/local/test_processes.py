"""Programs in the background: found again and ended with all they started."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from rayscale.errors import RayscaleError
from rayscale.local import processes
from rayscale.local.processes import Service


def sleeper(home: Path, script: str, ports: frozenset[int] = frozenset()) -> Service:
    return Service(
        name="sleeper",
        address="nowhere",
        command=["sh", "-c", script],
        environment={"GREETING": "hello"},
        cwd=home,
        ports=ports,
        ready=(home / "ready").exists,
        timeout_s=10,
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_orphans_are_found_and_ended(tmp_path: Path) -> None:
    """Children in sessions of their own, deaf to TERM, with their parent dead: all of them go."""
    script = "trap '' TERM; setsid sleep 1000 & sleep 1000 & echo $GREETING; touch ready; wait"
    pid = processes.start(sleeper(tmp_path, script), tmp_path, dict(os.environ))
    wait_for(tmp_path / "ready")
    # Without the one that has just written "ready".
    children = [c for c in psutil.Process(pid).children(recursive=True) if c.name() != "touch"]
    assert len(children) == 2
    os.kill(pid, signal.SIGKILL)
    found = processes.find(tmp_path, {"sleeper"})
    assert {process.pid for process in found} >= {child.pid for child in children}
    assert processes.find(tmp_path, {"other"}) == []
    assert processes.find(tmp_path / "elsewhere", {"sleeper"}) == []
    processes.end(lambda: processes.find(tmp_path, {"sleeper"}))
    assert not any(child.is_running() and child.status() != "zombie" for child in children)
    assert not processes.alive(pid)
    assert processes.log_file(tmp_path, "sleeper").read_text() == "hello\n"


def test_a_pid_that_was_given_again_is_another_process(tmp_path: Path) -> None:
    started = processes.started_at(os.getpid())
    assert processes.alive(os.getpid(), started)
    assert not processes.alive(os.getpid(), started - 100)
    assert processes.find(tmp_path, {"s3"}, [(os.getpid(), started - 100)]) == []


def test_a_service_that_never_answers(tmp_path: Path) -> None:
    service = sleeper(tmp_path, "echo thinking; sleep 1000")
    pid = processes.start(service, tmp_path, dict(os.environ))
    try:
        assert not processes.is_ready(service, tmp_path, pid, waited_s=1)
        wait_for(processes.log_file(tmp_path, "sleeper"))
        with pytest.raises(RayscaleError, match=r"did not answer at nowhere within 10 s"):
            processes.is_ready(service, tmp_path, pid, waited_s=11)
    finally:
        processes.end(lambda: processes.find(tmp_path, {"sleeper"}))


def test_the_answer_of_another_program_does_not_count(tmp_path: Path) -> None:
    """Where the service does not listen, who answers is another: here this process."""
    (tmp_path / "ready").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        service = sleeper(tmp_path, "sleep 1000", frozenset([port]))
        pid = processes.start(service, tmp_path, dict(os.environ))
        try:
            assert not processes.is_ready(service, tmp_path, pid, waited_s=1)
            assert processes.is_ready(service, tmp_path, os.getpid(), waited_s=1)
        finally:
            processes.end(lambda: processes.find(tmp_path, {"sleeper"}))


def test_a_port_of_another_protocol_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                client.sendall(b"SSH-2.0-other\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        assert not processes.answers(f"http://127.0.0.1:{server.getsockname()[1]}/health")
        thread.join()


def test_a_port_in_use_is_not_picked() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        busy = server.getsockname()[1]
        assert not processes.is_free(busy)
        picked = processes.pick_port(busy, ())
        assert picked != busy
        assert processes.pick_port(picked, ()) == picked
        assert processes.pick_port(picked, {picked}) != picked
