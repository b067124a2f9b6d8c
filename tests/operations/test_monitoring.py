"""Alerts fire where they must, dashboards are what Grafana reads, and a real Prometheus answers every query of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayscale import local
from rayscale.cli import run
from rayscale.errors import ConfigError, RayscaleError
from rayscale.local import prometheus
from rayscale.operations.dashboards import render_all
from rayscale.operations.figures import DASHBOARDS, Figure
from rayscale.operations.prometheus import ask, show

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


def test_prometheus_has_a_key_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "prometheus/key"
    monkeypatch.delenv("RAYSCALE_SERVE_API_KEYS", raising=False)
    prometheus.service(tmp_path, 1, 2)
    assert key.read_text() == ""
    key.write_text("by hand")
    prometheus.service(tmp_path, 1, 2)
    assert key.read_text() == "by hand"
    monkeypatch.setenv("RAYSCALE_SERVE_API_KEYS", " one, two")
    prometheus.service(tmp_path, 1, 2)
    assert key.read_text() == "one"
    assert key.stat().st_mode & 0o077 == 0
    (*_, service) = yaml.safe_load((tmp_path / "prometheus/prometheus.yml").read_text())[
        "scrape_configs"
    ]
    assert service["authorization"] == {"credentials_file": str(key)}
