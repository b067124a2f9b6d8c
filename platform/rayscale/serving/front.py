"""What stands before Ray Serve's own proxy: limits on headers, and its own errors in the one form.

Ray Serve reads headers of any size for as long as they come, and answers with plain text where a replica is lost.
It calls :func:`middlewares` in every proxy whose environment has
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=rayscale.serving.front.middlewares``: the images of ``infra/docker``, the
local stack and ``rayscale serve`` set it.
"""

from __future__ import annotations

import asyncio

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rayscale.errors import NotFoundError, RayscaleError
from rayscale.serving.errors import (
    DeadlineError,
    OverloadedError,
    UnavailableError,
    refusal,
    rendered,
)
from rayscale.serving.settings import get_serve_settings

CALLBACK = "rayscale.serving.front.middlewares"

MAX_HEAD_BYTES = 64 << 10
"""Of the request line and all headers."""

HEAD_TIMEOUT_S = 20.0
"""From the first byte of a request, or from the connection, to the end of its headers."""


def middlewares() -> list[Middleware]:
    """Called by Ray Serve in its proxy before that listens."""
    from uvicorn.protocols.http import auto

    auto.AutoHTTPProtocol = Protocol  # what uvicorn takes when it is not told, as here
    return [Middleware(OneForm)]


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
            answer = refusal(replaced, get_serve_settings().retry_after_s)
            await answer(scope, receive, send)


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
            if self._head > MAX_HEAD_BYTES:
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
        if size > MAX_HEAD_BYTES:
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
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._refuse_slow)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse_large(self) -> None:
        self._refuse(
            431,
            "headers_too_large",
            f"request line and headers may have {MAX_HEAD_BYTES} bytes together",
        )

    def _refuse_slow(self) -> None:
        if self._begun:
            self._refuse(
                408,
                "headers_timeout",
                f"the headers did not end within {HEAD_TIMEOUT_S:g} s",
            )
        else:
            self.transport.close()  # nothing was asked

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._refused = True
        self._stop_waiting()
        if not self.transport.is_closing():
            self.transport.write(rendered(status, code, message))
            self.transport.close()
