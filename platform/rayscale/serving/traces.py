"""Traces of requests for OpenTelemetry: a span for each, with the stages of its images below. Off unless an endpoint is set.

Attributes are those of the log: never a query, a name of a file, or anything of an image.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from rayscale import __version__
from rayscale.errors import ConfigError
from rayscale.serving.requestid import current_id
from rayscale.serving.requests import Result
from rayscale.serving.settings import ServeSettings

_STAGES = ("decode", "upscale", "encode")


class Traces:
    """Makes spans; none where ``settings`` name no endpoint.

    Args:
        exporter: of OpenTelemetry, in place of the one for the endpoint.

    Raises ConfigError where an endpoint is set and its exporter is not installed.
    """

    def __init__(self, settings: ServeSettings, exporter: Any = None) -> None:
        self._tracer: Any = None
        if exporter is None and settings.traces_endpoint:
            exporter = _otlp(settings.traces_endpoint)
        if exporter is not None:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            about = {"service.name": "rayscale", "service.version": __version__}
            self.provider = TracerProvider(resource=Resource.create(about))
            self.provider.add_span_processor(BatchSpanProcessor(exporter))
            self._tracer = self.provider.get_tracer("rayscale.serving")

    @contextmanager
    def request(self, scope: Scope, path: str, outcome: dict[str, Any]) -> Iterator[None]:
        """The time of a request, below the span that its ``traceparent`` names; ``outcome`` becomes attributes at its end."""
        if self._tracer is None:
            yield
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        above = TraceContextTextMapPropagator().extract(dict(Headers(scope=scope)))
        attributes = {
            "http.request.method": scope["method"],
            "http.route": path,
            "rayscale.request_id": current_id(),
        }
        name = f"{scope['method']} {path}"
        with self._tracer.start_as_current_span(
            name, context=above, kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            try:
                yield
            finally:
                span.set_attributes({name: v for name, v in outcome.items() if v is not None})

    def note_image(self, result: Result) -> None:
        """The stages of an image that has just come back, as spans that end now."""
        if self._tracer is None:
            return
        end = time.time_ns()
        seconds = [result.seconds.get(stage, 0.0) for stage in _STAGES]
        start = end - round(1e9 * sum(seconds))
        about = {"rayscale.model": result.model, "rayscale.scale": result.scale}
        for stage, spent in zip(_STAGES, seconds, strict=True):
            span = self._tracer.start_span(stage, start_time=start, attributes=about)
            start += round(1e9 * spent)
            span.end(end_time=start)


def _otlp(endpoint: str) -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError(
            "RAYSCALE_SERVE_TRACES_ENDPOINT is set, but the exporter is not installed: pip install 'rayscale[telemetry]'"
        ) from None
    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
