"""Load on an HTTP service: the same POST again and again, over connections that are kept, by asyncio.

``wrk``, ``oha`` and their like run for a time and give up what is under way at its end, which here would be seconds of work
of the next contender; a number of requests leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Load:
    """What came of some requests.

    Attributes:
        rate: answers/s. taken: seconds to each answer. failed: answers other than 200.
        cpu: seconds of all cores that an answer took, without those of the clients.
    """

    rate: float
    taken: list[float]
    failed: int = 0
    cpu: float = 0.0

    @property
    def median(self) -> float:
        """Seconds to an answer."""
        return statistics.median(self.taken)


def percentile(values: list[float], percent: float) -> float:
    """The nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def load(address: str, path: str, body: bytes, concurrency: int, count: int) -> Load:
    """``concurrency`` clients send ``body`` until ``count`` requests are answered."""
    return asyncio.run(_load(address + path, body, concurrency, count))


async def _load(url: str, body: bytes, concurrency: int, count: int) -> Load:
    taken: list[float] = []
    sent = failed = 0

    async def client(connection: Connection) -> None:
        nonlocal sent, failed
        while sent < count:
            sent += 1
            start = time.perf_counter()
            status, _, _ = await connection.post(url, body)
            taken.append(time.perf_counter() - start)
            failed += status != 200

    connections = [await Connection(url).__aenter__() for _ in range(concurrency)]
    begun = time.perf_counter()
    await asyncio.gather(*map(client, connections))
    elapsed = time.perf_counter() - begun
    for connection in connections:
        await connection.__aexit__()
    return Load(count / elapsed, taken, failed)


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
