"""The deployed service as its tests see it: clients, processes, and its line to MLflow."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from rayscale.inference.pipeline import Pipeline
from rayscale.models.builtin import OpenedModel, open_builtin
from rayscale.options import Options
from rayscale.serving.keys import Key, hash_key

KEY = "a-key-of-the-service-under-test"
COUNTED = "a-key-of-six-requests-a-minute"
METERED = "a-key-of-very-few-megapixels"
NAMED_KEYS = (
    Key("counted", hash_key(COUNTED), requests_per_minute=6),
    Key("metered", hash_key(METERED), megapixels_per_minute=1e-6),
)


class Line:
    """A line between the service and MLflow that can go dead: what is sent is taken and never answered, or refused."""

    def __init__(self, host: str, port: int) -> None:
        self.target = host, port
        self.state = "up"
        self.kept: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                if self.state == "up":
                    server = socket.create_connection(self.target)
                    for ends in ((client, server), (server, client)):
                        threading.Thread(target=self._pass_on, args=ends, daemon=True).start()
                elif self.state == "refusing":
                    client.close()
                else:
                    self.kept.append(client)  # a hung one keeps its clients waiting

    def restore(self) -> None:
        """Up again; whoever waited for the hung one is told so, and asks anew."""
        self.state = "up"
        while self.kept:
            self.kept.pop().close()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), source, target:
            while data := source.recv(65536):
                if self.state == "up":
                    target.sendall(data)
                elif self.state == "refusing":
                    return


def client_of(service: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.Client(base_url=service, headers=headers, timeout=120, trust_env=False)


def direct(tools: Any, data: bytes, seed: int | None, scale: int = 2) -> bytes:
    """What the library makes of ``data`` with the model of ``seed``, or bicubic."""
    model = open_builtin("bicubic") if seed is None else OpenedModel(tools.tiny_model(seed), "", "")
    return Pipeline(model, Options(scale=scale, precision="float32")).run(data).data


def replicas(deployment: str) -> list[int]:
    """The process ids of the living replicas of a deployment."""
    from ray.util.state import list_actors

    found = list_actors(filters=[("state", "=", "ALIVE")], detail=True)
    return [a.pid for a in found if a.class_name == f"ServeReplica:rayscale:{deployment}"]


def until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def resident(pid: int, field: str) -> int:
    """Bytes of a field of the memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


async def burst(
    service: str, path: str, data: bytes, count: int
) -> tuple[list[tuple[float, float, httpx.Response]], set[int]]:
    """``count`` requests at once, each with the moments of its begin and end, and the statuses of probes meanwhile."""

    async def ask() -> tuple[float, float, httpx.Response]:
        begun = time.monotonic()
        answer = await http.post(path, content=data)
        return begun, time.monotonic(), answer

    async def probe() -> set[int]:
        statuses = set()
        while not stop.is_set():
            for place in ("/healthz", "/readyz"):
                statuses.add((await http.get(place)).status_code)
            await asyncio.sleep(0.2)
        return statuses

    async with httpx.AsyncClient(
        base_url=service,
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=300,
        trust_env=False,
        limits=httpx.Limits(max_connections=None),
    ) as http:
        stop = asyncio.Event()
        probes = asyncio.create_task(probe())
        asked = await asyncio.gather(*(ask() for _ in range(count)))
        stop.set()
        return asked, await probes
