"""What stands before Ray Serve's own proxy: limits on headers, and its own errors in the one form.

Ray Serve reads headers of any size for as long as they come, and answers with plain text where a replica is lost.
It calls :func:`middlewares` in every proxy whose environment has
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=rayscale.serving.front.middlewares``: the images of ``infra/docker``, the
local stack and ``rayscale serve`` set it, with the rest of ``ENVIRONMENT``.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rayscale.errors import NotFoundError, RayscaleError
from rayscale.serving.errors import DeadlineError, OverloadedError, UnavailableError
from rayscale.serving.refusals import Refusals
from rayscale.serving.requestid import RequestId
from rayscale.serving.settings import get_serve_settings

CALLBACK = "rayscale.serving.front.middlewares"

ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": CALLBACK,
    # From proxy to ingress by gRPC instead of calls of actors, which take a fifth longer for a small image; whole images are
    # messages.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
}
"""Of every node whose proxies serve; also in ``rayscale.local.ray`` and ``infra/docker/Dockerfile``."""


def middlewares() -> list[Middleware]:
    """Called by Ray Serve in its proxy before that listens; the last one is the outermost."""
    from uvicorn.protocols.http import auto

    # What uvicorn takes when it is not told, as here.
    auto.AutoHTTPProtocol = Protocol
    os.environ["FORWARDED_ALLOW_IPS"] = get_serve_settings().trusted_proxies
    return [Middleware(OneForm), Middleware(RequestId)]


class OneForm:
    """Answers of the proxy itself (no replica, a lost one, a full queue, its time is over) as all others are."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False
        replaced: RayscaleError | None = None

        async def watch(message: Message) -> None:
            nonlocal started, replaced
            if message["type"] == "http.response.start":
                started = True
                replaced = _of_proxy(message)
            if replaced is None:
                await send(message)

        await self.app(scope, receive, watch)
        if not started:
            replaced = UnavailableError(
                "the replica that worked on this was lost; another answers when it is sent again"
            )
        if replaced is not None:
            refusals = Refusals(get_serve_settings())
            await refusals.respond(replaced)(scope, receive, send)


def _of_proxy(start: Message) -> RayscaleError | None:
    """The error that an answer of the proxy means; None for an answer of the application, whose errors are JSON."""
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    if start["status"] < 400 or not any(kind.startswith(b"text/plain") for kind in kinds):
        return None
    known: dict[int, RayscaleError] = {
        404: NotFoundError("nothing is served at this address"),
        408: DeadlineError("the answer took longer than request_timeout_s of the proxy"),
        429: OverloadedError("the queue is full; send it again after the time in Retry-After"),
    }
    return known.get(
        start["status"],
        UnavailableError("no replica could answer; send it again after the time in Retry-After"),
    )


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with a limit on the bytes and the time of a head."""

    def __init__(self, *places: Any, **options: Any) -> None:
        super().__init__(*places, **options)
        settings = get_serve_settings()
        self._most, self._patience = settings.max_head_bytes, settings.head_timeout_s

    _head: int | None = 0
    """Bytes of the head that is being read, None while none is."""
    _begun = False
    """Whether any byte of it has come."""
    _timer: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        before = self._head
        super().data_received(data)
        # Of a head that has not ended, all that came since it began may be part of it.
        if before is not None and self._head is not None:
            self._head = before + len(data)
            if self._head > self._most:
                self._refuse_large()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = True
        if self._head is None:
            self._head = 0
            self._wait()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._head, self._begun = None, False
        self._stop_waiting()
        if size > self._most:
            self._refuse_large()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            self._refuse(400, "bad_request", "this is not a valid HTTP request")

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(self._patience, self._refuse_slow)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse_large(self) -> None:
        self._refuse(
            431,
            "headers_too_large",
            f"request line and headers may have {self._most} bytes together (RAYSCALE_SERVE_MAX_HEAD_BYTES)",
        )

    def _refuse_slow(self) -> None:
        if self._begun:
            self._refuse(
                408,
                "headers_timeout",
                f"the headers did not end within {self._patience:g} s (RAYSCALE_SERVE_HEAD_TIMEOUT_S)",
            )
        else:
            self.transport.close()  # nothing was asked

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._refused = True
        self._stop_waiting()
        if not self.transport.is_closing():
            refusals = Refusals(get_serve_settings())
            self.transport.write(refusals.rendered(status, code, message))
            self.transport.close()
