"""Limits on request bodies, enforced before and while a body is read; nothing about its content.

Pure ASGI. Ray Serve itself has no limit on bodies, so a body must announce its length (411), the length has
a cap (413), the sum of all bodies held has a cap (429), and a body has a time to arrive in (408).
"""

from __future__ import annotations

import asyncio

from serve.errors import BadParameterError, BodyTimeoutError, LengthRequiredError, OverloadedError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayscale.errors import TooLargeError


class BodyLimit:
    """Refuses bodies that are too large, unannounced, too slow, or too many at once.

    Args:
        app: what is protected.
        max_bytes: largest body.
        max_pending_bytes: largest sum of announced lengths of the requests in progress.
        timeout_s: seconds from the first read to the last byte of a body.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, max_pending_bytes: int, timeout_s: float
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_pending_bytes = max(max_pending_bytes, max_bytes)
        self.timeout_s = timeout_s
        self.pending_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        length = self._announced(Headers(scope=scope))
        if self.pending_bytes + length > self.max_pending_bytes:
            raise OverloadedError(
                f"{self.pending_bytes} bytes of other requests are in progress and at most "
                f"{self.max_pending_bytes} are held at once (RAYSCALE_SERVE_MAX_PENDING_BYTES); "
                "send it again after the time in Retry-After"
            )
        self.pending_bytes += length
        try:
            await self.app(scope, self._limited(receive, length), send)
        finally:
            self.pending_bytes -= length

    def _announced(self, headers: Headers) -> int:
        text = headers.get("content-length")
        if text is None or "transfer-encoding" in headers:
            raise LengthRequiredError(
                "the body must come with its Content-Length, not chunked; send a file instead of a "
                "stream"
            )
        if not (text.isascii() and text.isdigit()):
            raise BadParameterError(f"Content-Length {text[:20]!r} is not a number")
        # Longer texts are certainly over the limit, and int() of megabytes of digits would be slow.
        length = int(text) if len(text) < 20 else 10**20
        self._check(length)
        return length

    def _check(self, length: int) -> None:
        if length > self.max_bytes:
            raise TooLargeError(
                f"the body has {length} bytes, over the limit of {self.max_bytes} "
                "(RAYSCALE_MAX_INPUT_BYTES); larger images go through the batch job, from bucket to "
                "bucket"
            )

    def _limited(self, receive: Receive, announced: int) -> Receive:
        taken = 0
        complete = False
        deadline: float | None = None

        async def limited() -> Message:
            nonlocal taken, complete, deadline
            if complete:  # what follows the body is the disconnect, which may take its time
                return await receive()
            loop = asyncio.get_running_loop()
            deadline = deadline or loop.time() + self.timeout_s
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise BodyTimeoutError(
                    f"{taken} of {announced} bytes came within {self.timeout_s:g} s "
                    "(RAYSCALE_SERVE_BODY_TIMEOUT_S)"
                ) from None
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                self._check(taken)
            return message

        return limited
