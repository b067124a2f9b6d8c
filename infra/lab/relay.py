"""A relay in front of a server that breaks connections when it is told to.

    relay.py MODE_FILE HOST PORT SERVER_PORT

The file is read at every connection, and while data passes; it holds nothing (all is well), ``gone`` (nobody is there),
``reset`` (connections are reset), ``cut`` (bodies end in the middle) or ``slow`` (a pause before every piece, which
grows while the file stays as it is: what needs thousands of pieces does not end, however long others take). It prints the mode
whenever it breaks a connection.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_PIECE = 1 << 16
_CUT_AFTER = 3 * _PIECE // 2
_PAUSE_S, _LONGER_S = 0.05, 20.0


class Relay:
    """Carries both ways of every connection."""

    def __init__(self, mode: Path, server: int) -> None:
        self._mode, self._server = mode, server

    def mode(self) -> str:
        """What the file says."""
        with suppress(FileNotFoundError):
            return self._mode.read_text().strip()
        return ""

    def _pause(self) -> float:
        age = 0.0
        with suppress(FileNotFoundError):
            age = max(0.0, time.time() - self._mode.stat().st_mtime)
        return _PAUSE_S * (1 + age / _LONGER_S)

    async def carry(self, up: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        if self.mode() in ("gone", "reset"):
            print(self.mode(), flush=True)
            _reset(back)
            return
        try:
            down, forth = await asyncio.open_connection("127.0.0.1", self._server)
        except OSError:
            _reset(back)
            return
        ways = [asyncio.create_task(self._pass(*ends)) for ends in ((up, forth), (down, back))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        broken = any(way.done() and not way.cancelled() and way.result() for way in ways)
        for writer in (forth, back):
            _reset(writer) if broken else writer.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> bool:
        """Whether it ended because the mode says so."""
        passed = 0
        with suppress(OSError):
            while data := await source.read(_PIECE):
                mode, passed = self.mode(), passed + len(data)
                cut = mode == "cut" and passed > _CUT_AFTER
                if cut:
                    sink.write(data[: len(data) // 2])
                if cut or mode in ("gone", "reset"):
                    print(mode, flush=True)
                    return True
                if mode == "slow":
                    await asyncio.sleep(self._pause())
                sink.write(data)
                await sink.drain()
        return False


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    writer.transport.abort()


async def _main(mode: str, host: str, port: str, server: str) -> None:
    relay = Relay(Path(mode), int(server))
    listener = await asyncio.start_server(relay.carry, host, int(port))
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
