"""A real Prometheus answers every query about the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rayscale.cli import run
from rayscale.local import processes, prometheus
from rayscale.operations.figures import every_query
from rayscale.operations.prometheus import ask
from rayscale.serving.metrics import IngressMetrics, ReplicaMetrics, render, take_snapshot


class Told(BaseHTTPRequestHandler):
    """What an ingress answers at ``/metrics``, of the service's own counters."""

    text = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[str]:
    """The URL of a Prometheus over a service."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Told)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = processes.pick_port(None, ())
    service = prometheus.service(tmp_path, port, server.server_address[1])
    target = f"127.0.0.1:{server.server_address[1]}"
    text = prometheus.configuration(tmp_path / "no-ray.json", target, service.cwd / "key", "1s")
    (service.cwd / "prometheus.yml").write_text(text)
    pid, started = processes.start(service, tmp_path, {}), time.monotonic()
    try:
        while not processes.is_ready(service, tmp_path, pid, time.monotonic() - started):
            time.sleep(0.1)
        yield service.address
    finally:
        processes.end(lambda: processes.find(tmp_path, {"prometheus"}))
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(
    prometheus.program() is None,
    reason="Prometheus is not installed (apt-get install prometheus)",
)
@pytest.mark.slow
def test_every_query_of_the_service_is_answered(
    watched: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a real Prometheus, over the service's own counters."""
    ingress, replica = IngressMetrics(), ReplicaMetrics()
    missing, end = {"all"}, time.monotonic() + 120
    while missing and time.monotonic() < end:  # figures move, or rates have no data
        _serve_an_image(ingress, replica)
        snapshots = (("i", ingress.registry), ("r", replica.registry))
        Told.text = render((name, take_snapshot(registry)) for name, registry in snapshots)
        time.sleep(0.5)
        missing = {
            figure.title
            for name, figure, query in every_query()
            if name in ("serving", "costs")
            and "ray_" not in query.expression  # of runs: test_stack_watched
            and not ask(watched, query)
        }
    assert not missing
    assert run("top", "--once", "--prometheus", watched, "--only", "serving") == 0
    shown = capsys.readouterr().out
    assert "Requests" in shown
    assert "{{" not in shown


def _serve_an_image(ingress: Any, replica: Any) -> None:
    from rayscale.serving.keys import Key
    from rayscale.serving.requests import Result

    seconds = dict.fromkeys(("queue", "decode", "upscale", "encode"), 0.1)
    result = Result(b"x" * 100, "png", "edsr/1", "d", 2.0, seconds, width=20, height=20, pixels=100)
    ingress.note_request("/v1/upscale", 200, "", "team", 0.4)
    ingress.note_request("/v1/upscale", 429, "overloaded", "team", 0.1)
    ingress.note_image(result, Key("team", "0" * 64), 50)
    replica.note_load("edsr/1")
    replica.budget.set(100)
    replica.held.set(50)
    replica.loaded.set(1)
    replica.alias_age.set(3)
