"""A TCP proxy that breaks connections where a test wants it to: nothing of the client or the server is replaced."""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) [^\r\n]* HTTP/1.1\r\n")
_INTERIM = b"HTTP/1.1 100"
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Break:
    """Reset the connection when more than ``after`` bytes went this way of a request whose first line matches ``request``.

    Interim answers do not count.
    """

    request: str
    way: Literal["up", "down"]
    after: int


class Proxy:
    """In front of the server at ``url``. Each of ``breaks`` happens once, in this order, and is in ``broken`` then."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._server = (place.hostname, place.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.breaks: list[Break] = []
        self.broken: list[Break] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:  # closed
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        """One thread for both ways: closing a socket that another one reads would reset nothing."""
        server = socket.create_connection(self._server)
        fault, passed = None, 0
        try:
            while True:
                for source in select.select([client, server], (), ())[0]:
                    up = source is client
                    sink = server if up else client
                    data = source.recv(1 << 14)
                    if not data:
                        return
                    if up and (line := _REQUEST.match(data)):
                        fault, passed = self._pick(line[0].decode()), 0
                    if fault and up == (fault.way == "up") and not data.startswith(_INTERIM):
                        if passed + len(data) > fault.after:
                            sink.sendall(data[: fault.after - passed])
                            for end in (client, server):
                                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
                            self.broken.append(fault)
                            return
                        passed += len(data)
                    sink.sendall(data)
        except OSError:  # one end is gone
            return
        finally:
            client.close()
            server.close()

    def _pick(self, line: str) -> Break | None:
        for number, each in enumerate(self.breaks):
            if re.search(each.request, line):
                return self.breaks.pop(number)
        return None
