"""What is counted and logged, read by Prometheus' own parser."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rayscale.serving.keys import Key, hash_key, render_keys
from rayscale.serving.metrics import ReplicaMetrics, render, take_snapshot

KEY = "a-key-of-somebody-long-enough"


def counted(app: Any, tools: Any, **headers: str) -> dict[tuple[str, frozenset[Any]], float]:
    """Samples by name and labels."""
    answer = tools.call(app, "GET", "/metrics", headers=headers)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Any, name: str, **labels: str) -> float:
    return float(
        sum(v for (each, given), v in samples.items() if each == name and labels.items() <= given)
    )


def test_requests_images_stages_and_megapixels_are_counted(make_app: Any, tools: Any) -> None:
    app, data = make_app(), tools.encoded(40, 50)
    for _ in range(3):
        tools.call(app, "POST", "/v1/upscale?model=bicubic&scale=3", content=data)
    tools.call(app, "POST", "/v1/upscale", content=b"text")
    tools.call(app, "GET", "/v1/models/bicubic")
    tools.call(app, "GET", "/of/somebody's/making")
    told = counted(app, tools)
    upscale = {"path": "/v1/upscale", "key": "anyone"}
    assert value(told, "rayscale_requests_total", status="200", code="", **upscale) == 3
    refused = {"status": "415", "code": "unsupported_media"}
    assert value(told, "rayscale_requests_total", **refused, **upscale) == 1
    assert value(told, "rayscale_requests_total", path="/v1/models") == 1
    assert value(told, "rayscale_requests_total", path="other", status="404") == 1
    assert value(told, "rayscale_images_total", model="bicubic", code="") == 3
    assert value(told, "rayscale_images_total", code="unsupported_media") == 1
    for stage in ("queue", "decode", "upscale", "encode"):
        assert value(told, "rayscale_stage_seconds_count", stage=stage) == 3
    assert value(told, "rayscale_megapixels_total", side="source") == pytest.approx(0.006)
    assert value(told, "rayscale_megapixels_total", side="output") == pytest.approx(0.054)
    assert value(told, "rayscale_model_loads_total", model="bicubic") == 1
    assert value(told, "rayscale_models_loaded") == 1
    assert value(told, "rayscale_images_running") == value(told, "rayscale_body_bytes") == 0
    assert value(told, "rayscale_memory_budget_bytes") > 1e6
    assert value(told, "rayscale_resident_bytes", replica="upscaling") > 1e7
    assert 0 <= value(told, "rayscale_alias_age_seconds") < 3600


def test_replicas_stand_side_by_side() -> None:
    one, two = ReplicaMetrics(), ReplicaMetrics()
    one.note_load("edsr/1")
    two.note_load("edsr/1")
    two.note_load("edsr/1")
    text = render([("a", take_snapshot(one.registry)), ("b", take_snapshot(two.registry))])
    loads = {
        sample.labels["replica"]: sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name == "rayscale_model_loads_total"
    }
    assert loads == {"a": 1, "b": 2}


def test_counts_are_behind_the_key(make_app: Any, tools: Any) -> None:
    app = make_app(keys=render_keys([Key("maps", hash_key(KEY))]))
    assert tools.call(app, "GET", "/metrics").status_code == 401
    tools.call(app, "POST", "/v1/upscale", content=tools.encoded(4, 4), headers={"X-API-Key": KEY})
    told = counted(app, tools, **{"X-API-Key": KEY})
    assert value(told, "rayscale_images_total", key="maps") == 1
    assert value(told, "rayscale_requests_total", key="anyone", code="unauthorized") == 1


def test_a_request_is_a_line_of_json_without_its_query(
    make_app: Any, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    app = make_app()
    answer = tools.call(app, "POST", "/v1/upscale?model=QXZ-Doe", content=tools.encoded(4, 4))
    lines = [record.message for record in caplog.records if '"event"' in record.message]
    (told,) = map(json.loads, lines)
    assert told["request_id"] == answer.headers["x-request-id"]
    assert (told["path"], told["status"], told["code"]) == ("/v1/upscale", 404, "not_found")
    assert told["key"] == "anyone"
    assert "QXZ" not in lines[0]


def test_no_log_and_no_count_holds_a_key(
    make_app: Any, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app = make_app(keys=render_keys([Key("maps", hash_key(KEY))]))
    given, wrong = {"Authorization": f"Bearer {KEY}"}, {"X-API-Key": f"{KEY}-and-more"}
    told = [
        tools.call(app, "POST", "/v1/upscale", content=tools.encoded(4, 4), headers=headers).headers
        for headers in (given, wrong)
    ]
    told.append(tools.call(app, "GET", f"/v1/models?key={KEY}", headers=given).headers)
    text = tools.call(app, "GET", "/metrics", headers=given).text
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("ray")]
    assert len(logged) == 4
    for shown in (*logged, text, *map(str, told)):
        assert KEY not in shown
        assert hash_key(KEY) not in shown
