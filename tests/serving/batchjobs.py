"""A double of the cluster that runs batches, and a host that takes webhooks."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.plugins.stack import WEBHOOK_SECRET as SECRET

from rayscale.serving.errors import UnavailableError


class Jobs:
    """A cluster that does nothing by itself."""

    def __init__(self) -> None:
        self.running: dict[str, str] = {}
        self.over: dict[str, str] = {}
        self.gone = False

    def submit(self, job: str, record: str) -> None:
        if self.gone:
            raise UnavailableError("no job server")
        assert job not in self.running
        self.running[job] = record

    def ended(self, job: str) -> str | None:
        return self.over.get(job) if job in self.running else "the cluster is gone"

    def stop(self, job: str) -> None:
        self.over[job] = "stopped"


class Host(http.server.ThreadingHTTPServer):
    """Takes webhooks, each checked by its signature; ``status`` is what it answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[dict[str, Any]] = []
        self.asked = 0
        self.status = 204
        self.url = f"http://127.0.0.1:{self.server_port}/told"

    def told(self, batch: str) -> list[str]:
        """The states that a batch was said to have ended in."""
        return [each["state"] for each in self.got if each["id"] == batch]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Host

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        moment, given = (
            part.split("=")[1] for part in self.headers["X-Rayscale-Signature"].split(",")
        )
        signed = hmac.new(SECRET.encode(), f"{moment}.".encode() + data, hashlib.sha256)
        if hmac.compare_digest(given, signed.hexdigest()) and self.server.status < 300:
            self.server.got.append(json.loads(data))
        self.send_response(self.server.status)
        self.end_headers()
        self.server.asked += 1

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def host_of_webhooks() -> Iterator[Host]:
    with Host() as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield host
        host.shutdown()
