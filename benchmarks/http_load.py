"""Load on an HTTP service: the same POST again and again, by ``wrk`` where it is installed, else by asyncio."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

TOOL = shutil.which("wrk")
"""Of Debian and others; its latencies are those of its own clock."""

_SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('{{"requests": %d, "elapsed": %f, "p50": %f, "p95": %f, "failed": %d}}\\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(95) / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What came of some seconds of load.

    Attributes:
        rate: answers/s. p50, p95: seconds to the answer. failed: requests that had none, or another than 200.
    """

    rate: float
    p50: float
    p95: float
    failed: int = 0

    @classmethod
    def of(cls, seconds: list[float], elapsed: float, failed: int = 0) -> Load:
        """From the seconds of every request."""
        return cls(len(seconds) / elapsed, statistics.median(seconds), percentile(seconds, 95), failed)  # fmt: skip


def percentile(values: list[float], percent: float) -> float:
    """The nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def load(address: str, path: str, body: Path, concurrency: int, seconds: float) -> Load:
    """``concurrency`` clients that send the file ``body`` for ``seconds``."""
    if TOOL is None:
        return asyncio.run(_by_asyncio(address + path, body.read_bytes(), concurrency, seconds))
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT.format(body=body))
        script.flush()
        command = [TOOL, "-t1", f"-c{concurrency}", f"-d{seconds:.0f}s", "--timeout=60s"]
        done = subprocess.run(
            [*command, "-s", script.name, address + path],
            text=True,
            capture_output=True,
            check=True,
        )
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return Load(told["requests"] / told["elapsed"], told["p50"], told["p95"], told["failed"])


async def _by_asyncio(url: str, body: bytes, concurrency: int, seconds: float) -> Load:
    taken: list[float] = []
    failed = 0
    begun = time.perf_counter()

    async def client() -> None:
        nonlocal failed
        async with Connection(url) as connection:
            while time.perf_counter() < begun + seconds:
                start = time.perf_counter()
                status, _, _ = await connection.post(url, body)
                taken.append(time.perf_counter() - start)
                failed += status != 200

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return Load.of(taken, time.perf_counter() - begun, failed)


class Connection:
    """One client that keeps its connection, with nothing between it and the socket that would cost time."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._place = str(place.hostname), int(place.port or 80)

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(*self._place)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(
        self, url: str, body: bytes, headers: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of the answer."""
        return await self._ask("POST", url, body, headers)

    async def get(self, url: str) -> int:
        """The status alone."""
        status, _, _ = await self._ask("GET", url, b"", "")
        return status

    async def _ask(
        self, method: str, url: str, body: bytes, headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        place = urlsplit(url)
        head = f"{method} {place.path}?{place.query} HTTP/1.1\r\nHost: {place.netloc}\r\n{headers}"
        if method == "POST":
            head += f"Content-Length: {len(body)}\r\n"
        self._writer.write(f"{head}\r\n".encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        answer = await self._reader.readexactly(int(found.get("content-length", 0)))
        return int(lines[0].split()[1]), found, answer
