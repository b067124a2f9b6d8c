"""Alerts fire where they must, dashboards are what Grafana reads, and a real Prometheus answers every query of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayscale import local
from rayscale.cli import run
from rayscale.errors import ConfigError, RayscaleError
from rayscale.local import processes, prometheus
from rayscale.operations.dashboards import render_all
from rayscale.operations.figures import DASHBOARDS, Figure, every_query
from rayscale.operations.prometheus import Series, ask, show

needs_prometheus = pytest.mark.skipif(
    prometheus.program() is None, reason="Prometheus is not installed (apt-get install prometheus)"
)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")
def test_every_alert_fires_and_stays_silent(tmp_path: Path) -> None:
    text = Path(__file__).with_name("alerts_test.yaml").read_text()
    (tmp_path / "test.yaml").write_text(text.replace("RULES", str(prometheus.RULES)))
    command = ["promtool", "test", "rules", "test.yaml"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tried = set(re.findall(r"alertname: (\w+)", text))
    assert tried == {rule["alert"] for rule in _rules()}


def test_every_alert_has_a_runbook(checkout: Path) -> None:
    headings = re.findall(r"^## (.+)$", (checkout / "docs/runbooks.md").read_text(), re.M)
    anchors = {re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") for heading in headings}
    named = {rule["annotations"]["runbook_url"].partition("#")[2] for rule in _rules()}
    assert named == anchors


def _rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(prometheus.RULES.read_text())["groups"]
    return list(group["rules"])


def test_dashboards_are_those_of_the_figures(checkout: Path) -> None:
    stored = {
        path.name: path.read_text()
        for path in (checkout / "infra/monitoring/grafana").glob("*.json")
    }
    assert stored == render_all(), (
        "python -m rayscale.operations.dashboards infra/monitoring/grafana"
    )


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_fit_the_schema_of_grafana(name: str) -> None:
    """Read by the types that Grafana generates from its own schema: what they do not know would be lost on the way."""
    dashboard = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    cog = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    pytest.importorskip("grafana_foundation_sdk.cog.plugins").register_default_plugins()
    written = json.loads(render_all()[f"{name}.json"])
    read = json.loads(cog.JSONEncoder(indent=None).encode(dashboard.Dashboard.from_json(written)))
    assert _lost(written, read) == []
    assert len(read["panels"]) == len(DASHBOARDS[name])


def _lost(written: Any, read: Any, place: str = "") -> list[str]:
    """What is in one JSON value and not in another."""
    if isinstance(written, dict):
        found = [
            f"{place}.{key}" for key in written if not isinstance(read, dict) or key not in read
        ]
        return found + [
            each
            for key in written
            if not found
            for each in _lost(written[key], read[key], f"{place}.{key}")
        ]
    if isinstance(written, list):
        pairs = zip(written, read, strict=True)
        return [each for n, (a, b) in enumerate(pairs) for each in _lost(a, b, f"{place}[{n}]")]
    return [] if written == read else [f"{place}: {written!r} became {read!r}"]


def test_panels_do_not_lie_over_each_other() -> None:
    for text in render_all().values():
        places = [tuple(panel["gridPos"].values()) for panel in json.loads(text)["panels"]]
        assert len(set(places)) == len(places)
        assert all(x + w <= 24 for x, _, w, _ in places)


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        ("percentunit", 0.123, "12.3 %"),
        ("bytes", 2.5e9, "2.5 GB"),
        ("Bps", 999.0, "999 B/s"),
        ("s", 0.25, "0.25 s"),
        ("reqps", 3.0, "3/s"),
        ("short", 7.0, "7"),
    ],
)  # fmt: skip
def test_values_are_shown_with_their_units(unit: str, value: float, shown: str) -> None:
    assert show(Figure("", unit, ()), value) == shown


def test_a_prometheus_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    query = DASHBOARDS["cluster"][0].queries[0]
    with pytest.raises(ConfigError, match="RAYSCALE_PROMETHEUS"):
        ask("", query)
    with pytest.raises(RayscaleError, match=r"no Prometheus answers at http://127\.0\.0\.1:9"):
        ask("http://127.0.0.1:9", query)
    assert run("top", "--only", "kitchen") == 2
    assert "use one of serving, costs" in capsys.readouterr().err


def test_a_stack_without_the_program_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus.shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="apt-get install prometheus"):
        local.up(tmp_path, services=("s3", local.MONITORING))
    assert local.status(tmp_path) == []


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
def watched(stack: local.Addresses, stack_home: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of a Prometheus over the Ray of the tests and a service."""
    from rayscale.local.ray import temporary_folder

    server = ThreadingHTTPServer(("127.0.0.1", 0), Told)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = processes.pick_port(None, ())
    service = prometheus.service(tmp_path, port, server.server_address[1])
    discovery = temporary_folder(stack_home.resolve()) / "prom_metrics_service_discovery.json"
    target = f"127.0.0.1:{server.server_address[1]}"
    (service.cwd / "prometheus.yml").write_text(prometheus.configuration(discovery, target, "1s"))
    pid = processes.start(service, tmp_path, {})
    started = time.monotonic()
    try:
        while not processes.is_ready(service, tmp_path, pid, time.monotonic() - started):
            time.sleep(0.1)
        yield service.address
    finally:
        processes.end(lambda: processes.find(tmp_path, {"prometheus"}))
        server.shutdown()


@needs_prometheus
@pytest.mark.slow
def test_every_query_of_every_dashboard_is_answered(
    watched: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By real metrics of Ray, and the real counters of the service, of a batch and of a run."""
    import ray

    from rayscale import cluster
    from rayscale.cluster.gauges import Gauges
    from rayscale.serving.metrics import IngressMetrics, ReplicaMetrics, render, take_snapshot

    cluster.connect()
    kept = ray.remote(num_cpus=0)(_Idle).remote()  # an actor, which is counted
    ingress, replica = IngressMetrics(), ReplicaMetrics()
    batch, train = Gauges("rayscale_batch", "test"), Gauges("rayscale_train", "test")
    missing, end = {}, time.monotonic() + 120
    for turn in range(10_000):  # figures move, or rates have no data
        _serve_an_image(ingress, replica)
        snapshots = [("ingress", ingress.registry), ("replica", replica.registry)]
        Told.text = render((name, take_snapshot(registry)) for name, registry in snapshots)
        batch.set(
            dict.fromkeys(
                ("finished", "failed", "todo", "bytes", "megapixels", "seconds"), 1.0 + turn
            )
        )
        names = (
            "loss",
            "steps_per_s",
            "data_wait",
            "memory_bytes",
            "seconds_left",
            "checkpoint_step",
            "step",
        )
        train.set(dict.fromkeys(names, 1.0 + turn))
        missing = {
            (name, figure.title): query.over("1m")
            for name, figure, query in every_query()
            if not figure.needs and not ask(watched, query)
        }
        if not missing or time.monotonic() > end:
            break
        time.sleep(1)
    del kept
    assert not missing
    assert ask(watched, DASHBOARDS["cluster"][0].queries[0]) == [Series("alive", 1.0)]
    assert run("top", "--once", "--prometheus", watched, "--only", "serving") == 0
    assert "Requests" in capsys.readouterr().out


class _Idle:
    pass


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
