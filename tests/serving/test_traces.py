"""Traces as OpenTelemetry's own exporter in memory has them."""

from __future__ import annotations

from typing import Any

import pytest

from rayscale.errors import ConfigError
from rayscale.serving.service import Traces
from rayscale.serving.settings import ServeSettings

exporters = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_request_and_its_stages_are_spans_below_that_of_the_client(
    make_app: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, made = exporters.InMemorySpanExporter(), []

    def traces(settings: ServeSettings) -> Traces:
        made.append(Traces(settings, exporter))
        return made[-1]

    monkeypatch.setattr("rayscale.serving.service.Traces", traces)
    app = make_app()
    answer = tools.call(
        app,
        "POST",
        "/v1/upscale?model=bicubic&scale=2",
        content=tools.encoded(9, 9),
        headers={"traceparent": f"00-{ABOVE}-00f067aa0ba902b7-01"},
    )
    assert tools.call(app, "POST", "/v1/upscale?model=QXZ", content=b"x").status_code == 415
    made[0].provider.force_flush()
    spans = exporter.get_finished_spans()
    first = {span.name: span for span in spans if f"{span.context.trace_id:032x}" == ABOVE}
    assert set(first) == {"POST /v1/upscale", "decode", "upscale", "encode"}
    request = first["POST /v1/upscale"]
    assert request.attributes["rayscale.request_id"] == answer.headers["x-request-id"]
    assert request.attributes["http.response.status_code"] == 200
    for stage in ("decode", "upscale", "encode"):
        assert first[stage].parent.span_id == request.context.span_id
        assert first[stage].attributes["rayscale.model"] == "bicubic"
    assert first["decode"].end_time <= first["upscale"].start_time + 1000
    (refused,) = (span for span in spans if f"{span.context.trace_id:032x}" != ABOVE)
    assert refused.attributes["error.type"] == "unsupported_media"
    assert "QXZ" not in str(refused.to_json())


def test_without_an_endpoint_nothing_is_traced() -> None:
    traces = Traces(ServeSettings())
    with traces.request({}, "", {}):
        pass
    assert traces._tracer is None


def test_an_endpoint_needs_its_exporter() -> None:
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"rayscale\[telemetry\]"):
            Traces(ServeSettings(traces_endpoint="http://127.0.0.1:4318"))
