"""The id of a request: in its answer, in its refusal, and in every line that the log has of it."""

from __future__ import annotations

from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayscale.correlation import SOUND, new_id

HEADER = "x-request-id"

_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def current_id() -> str:
    """The id of the request at work; a new one outside of all."""
    return _current.get() or new_id()


class RequestId:
    """Gives every request an id: that of the client's ``X-Request-Id`` where it is one, else a new one.

    Every answer carries it exactly once, whatever else below adds one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        known = given if SOUND.fullmatch(given) else new_id()
        others = [pair for pair in scope["headers"] if pair[0].lower() != HEADER.encode()]
        scope = {**scope, "headers": [*others, (HEADER.encode(), known.encode())]}

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": list(message.get("headers", []))}
                headers = MutableHeaders(scope=message)
                del headers[HEADER]
                headers[HEADER] = known
            await send(message)

        token = _current.set(known)
        try:
            await self.app(scope, receive, with_id)
        finally:
            _current.reset(token)
