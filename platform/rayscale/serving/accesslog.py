"""A line of JSON in the log for every request, and its count. Never a query, a name of a file, or anything of an image."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayscale import strictjson
from rayscale.serving.keys import key_of
from rayscale.serving.metrics import IngressMetrics
from rayscale.serving.refusals import ERROR_HEADER
from rayscale.serving.requestid import current_id
from rayscale.serving.traces import Traces

log = logging.getLogger("ray.serve")

BATCH_HEADER = "X-Rayscale-Batch"
"""Which batch an answer is about."""

_LEFT = 499
"""Of a client that left before it was answered, as nginx has it."""


class AccessLog:
    """Counts requests of ``paths``, traces them, and writes a line of each where ``lines`` are wanted."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: IngressMetrics,
        traces: Traces,
        paths: Iterable[str],
        *,
        lines: bool,
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.traces = traces
        self.paths = sorted({path.partition("{")[0].rstrip("/") or "/" for path in paths})
        self.lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, code, batch, size = time.perf_counter(), _LEFT, "", "", 0

        async def watch(message: Message) -> None:
            nonlocal status, code, batch, size
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = Headers(raw=message["headers"])
                code, batch = headers.get(ERROR_HEADER, ""), headers.get(BATCH_HEADER, "")
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        # Filled by the layers below, which know the key.
        scope = {**scope, "rayscale.caller": {}}
        path, outcome = self._known(scope), dict[str, Any]()
        try:
            with self.traces.request(scope, path, outcome):
                try:
                    await self.app(scope, receive, watch)
                finally:
                    outcome["http.response.status_code"] = status
                    outcome["error.type"] = code or None
        finally:
            seconds = time.perf_counter() - began
            key = scope["rayscale.caller"].get("key", key_of(scope)).id
            self.metrics.note_request(path, status, code, key, seconds)
            if self.lines:
                told = {
                    "event": "request",
                    "request_id": current_id(),
                    "method": scope["method"],
                    "path": path,
                    "status": status,
                    "code": code or None,
                    "key": key,
                    "batch": batch or None,
                    "seconds": round(seconds, 4),
                    "bytes": size,
                }
                log.info(strictjson.dumps(told))

    def _known(self, scope: Scope) -> str:
        """The path of the route; any other is ``other``, so that labels stay few and say nothing of anybody."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        fitting = [each for each in self.paths if path == each or path.startswith(f"{each}/")]
        return max(fitting, key=len, default="other")
