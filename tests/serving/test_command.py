"""``rayscale serve`` as a process: what it says, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import psutil
import pytest

import rayscale
from rayscale.cli import run
from rayscale.serving import deploy

KEY = "a-key-of-the-command-under-test"


class Service:
    """``rayscale serve`` on an embedded Ray, and all that it has started."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port, self.errors = process, port, ""
        self.children = psutil.Process(process.pid).children(recursive=True)
        self.replica = next(c for c in self.children if "Upscaling" in "".join(c.cmdline()))
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    def post(self, data: bytes, query: str = "") -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/v1/upscale?{query}"
        headers = {"X-API-Key": KEY}
        return httpx.post(url, content=data, headers=headers, timeout=120, trust_env=False)

    def begin(self, data: bytes) -> socket.socket:
        """A request whose body stops after 100 bytes."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        lines = (
            "POST /v1/upscale HTTP/1.1",
            "Host: x",
            f"X-API-Key: {KEY}",
            f"Content-Length: {len(data)}",
        )
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + data[:100])
        return connection

    def wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 100
        while not until():
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.05)

    def works(self) -> Callable[[], bool]:
        """A function that says whether the replica has worked since, more than it does for its own sake."""
        before = self.replica.cpu_times().user
        return lambda: self.replica.cpu_times().user > before + 0.3

    def end(self) -> tuple[int, str]:
        """Exit code and standard error, once the command and all that it has started have ended."""
        code = self.process.wait(timeout=110)
        self.reader.join(20)
        assert psutil.wait_procs(self.children, timeout=20)[1] == []
        return code, self.errors


@contextmanager
def serving(folder: Path, *words: str, **settings: str) -> Iterator[Service]:
    """``rayscale serve`` with ``words`` in ``folder``, with ``settings`` in its environment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYSCALE_"))}
    environment |= {"RAYSCALE_SERVE_API_KEYS": KEY, "RAYSCALE_SERVE_DEVICE": "cpu", **settings}
    process = subprocess.Popen(
        [sys.executable, "-m", "rayscale", "serve", "--port", str(port), *words],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert "access: keys: 1" in process.stdout.readline()
        yield Service(process, port)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.stack
def test_it_serves_an_exported_file(checkout: Path, tmp_path: Path) -> None:
    """What it answers is what ``rayscale upscale`` makes of the same file."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    file, photo = tmp_path / "edsr.onnx", tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(photo)
    assert run("export", "edsr-baseline-x2", str(file), "--to", "onnx") == 0
    named = ("--model", "edsr-baseline", "--weights", str(file))
    assert run("upscale", str(photo), str(tmp_path / "big.png"), *named) == 0
    with serving(checkout, *named) as service:
        answer = service.post(photo.read_bytes(), "scale=2")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-rayscale-model"] == "edsr-baseline"
    ours, theirs = (
        np.asarray(PIL.Image.open(each), int)
        for each in (BytesIO(answer.content), tmp_path / "big.png")
    )
    # Another number of threads may add in another order.
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.stack
def test_ctrl_c_ends_it_in_order(checkout: Path, tools: Any) -> None:
    """What is in progress is answered, in work or still arriving; the exit code is 130, and no process is left.

    A body that arrived after Ctrl-C found no replica any more and held the service until its deadline, 110 s.
    """
    large, small = tools.encoded(1000, 1000), tools.encoded(60, 60)
    done: list[int] = []
    late: list[socket.socket] = []
    with serving(
        checkout, RAYSCALE_SERVE_MAX_ARRIVING="1", RAYSCALE_SERVE_BODY_IDLE_S="60"
    ) as service:

        def every_ingress_reads() -> bool:
            """A body, and a look whether the next one is refused because of it and its like."""
            late.append(service.begin(small))
            return service.post(small).status_code == 429

        works = service.works()
        client = threading.Thread(
            target=lambda: done.append(service.post(large, "ensemble=true").status_code)
        )
        client.start()
        service.wait(works)
        service.wait(every_ingress_reads)
        assert client.is_alive()
        os.killpg(service.process.pid, signal.SIGINT)  # as a terminal does
        service.wait(lambda: "stopping: requests in progress have 60 s" in service.errors)
        time.sleep(0.5)
        arrived = [finish(connection, small[100:]) for connection in late]
        code, errors = service.end()
        client.join(20)
    assert done == [200]
    assert 200 in arrived
    assert set(arrived) <= {200, 429}  # one that came to an ingress which was reading another
    assert code == 130
    assert errors.count("stopping:") == errors.count("interrupted") == 1
    assert "Traceback" not in errors
    assert "*** SIG" not in errors
    assert "stack trace" not in errors.lower()


@pytest.mark.stack
def test_a_second_signal_ends_it_at_once(tmp_path: Path, tools: Any) -> None:
    """Whatever is in progress; the exit code is that of the first signal, and no process is left.

    The package is one as a wheel leaves it: alone, outside of a checkout.
    """
    data = tools.encoded(1000, 1000)
    outcome: list[object] = []
    site = tmp_path / "site"
    shutil.copytree(Path(rayscale.__file__).parent, site / "rayscale")
    with serving(tmp_path, PYTHONPATH=str(site)) as service:
        assert f"{site}" in service.replica.environ()["PYTHONPATH"]

        def post() -> None:
            try:  # a picture of minutes
                answer = service.post(data, "model=edsr-baseline&scale=2&ensemble=true")
                outcome.append(answer.status_code)
            except httpx.TransportError:
                outcome.append("lost")

        works = service.works()
        client = threading.Thread(target=post)
        client.start()
        service.wait(works)
        service.process.send_signal(signal.SIGTERM)
        service.wait(lambda: "stopping:" in service.errors)
        service.process.send_signal(signal.SIGINT)
        service.process.wait(timeout=20)
        code, errors = service.end()
        client.join(20)
    assert outcome in (["lost"], [503])  # the latter of an ingress that outlived the replica
    assert code == 143
    assert "interrupted" not in errors
    assert "Traceback" not in errors


def finish(connection: socket.socket, rest: bytes) -> int:
    """The status of the answer, once the rest of the body is sent."""
    with connection:
        with suppress(ConnectionError):
            connection.sendall(rest)
        return int(connection.recv(65536).split()[1])


def test_the_configuration_of_the_repository_is_that_of_the_package(checkout: Path) -> None:
    assert (checkout / "serve" / "config.yaml").samefile(deploy.CONFIG)


def test_a_key_variable_without_a_key_starts_nothing(checkout: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYSCALE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "rayscale", "serve"],
        cwd=checkout,
        env=environment | {"RAYSCALE_SERVE_API_KEYS": ""},
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "RAYSCALE_SERVE_API_KEYS is set but holds no key" in " ".join(done.stderr.split())
