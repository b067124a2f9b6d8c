"""Limits on request bodies, enforced before and while a body is read; nothing about its content.

Pure ASGI. Ray Serve itself has no limit on bodies, so a body must announce its length (411), the length has
a cap (413), what has arrived of all bodies has a cap and so has the number of those on their way (429), and a body must
keep coming (408). An announcement alone takes nothing from others, and one caller takes a share at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Gauge
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayscale.errors import TooLargeError
from rayscale.serving.errors import (
    BadParameterError,
    BodyTimeoutError,
    LengthRequiredError,
    OverloadedError,
)
from rayscale.serving.forms import is_form
from rayscale.serving.keys import owner_of


@dataclass
class _Held:
    """What one key, or without keys one address, holds at the moment."""

    bytes: int = 0
    arriving: int = 0
    requests: int = 0


class BodyLimit:
    """Refuses bodies that are too large, unannounced, too slow, or too many at once.

    Args:
        app: what is protected.
        max_bytes: largest body; ``max_form_bytes``: largest body of several images.
        max_pending_bytes: most bytes of bodies that have arrived for the requests in progress.
        max_arriving: most bodies that are not whole yet.
        peer_share: of both, what the requests of one key, or without keys of one address, may hold; always enough for one body.
        timeout_s: seconds from the first read to the last byte of a body; ``rate`` bytes buy one more.
        rate: bytes per second of a body that is never too slow.
        idle_s: seconds without a byte.
        gauge: shows the bytes that are held.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        max_form_bytes: int,
        max_pending_bytes: int,
        max_arriving: int,
        peer_share: float,
        timeout_s: float,
        rate: float,
        idle_s: float,
        gauge: Gauge | None = None,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_form_bytes = max_form_bytes
        self.max_pending_bytes = max(max_pending_bytes, max_bytes, max_form_bytes)
        self.max_arriving = max_arriving
        self.peer_share = peer_share
        self.timeout_s = timeout_s
        self.rate = rate
        self.idle_s = idle_s
        self.pending_bytes = 0
        if gauge is not None:
            gauge.set_function(lambda: float(self.pending_bytes))
        self.arriving = 0
        self._peers: dict[str, _Held] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        form = is_form(headers.get("content-type", ""))
        length = self._announced(headers, form)
        with self._holding(owner_of(scope)) as peer:
            body = _Body(self, peer, receive, length, form)
            try:
                await self.app(scope, body.receive, send)
            finally:
                body.give_back()

    @contextmanager
    def _holding(self, owner: str) -> Iterator[_Held]:
        peer = self._peers.setdefault(owner, _Held())
        peer.requests += 1
        try:
            yield peer
        finally:
            peer.requests -= 1
            if not peer.requests:
                del self._peers[owner]

    def _announced(self, headers: Headers, form: bool) -> int:
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
        self.check(length, form)
        return length

    def check(self, length: int, form: bool) -> None:
        """Raise TooLargeError for a body of ``length`` bytes over the limit."""
        most = self.max_form_bytes if form else self.max_bytes
        if length > most:
            setting = "RAYSCALE_SERVE_MAX_FORM_BYTES" if form else "RAYSCALE_MAX_INPUT_BYTES"
            raise TooLargeError(
                f"the body has {length} bytes, over the limit of {most} "
                f"({setting}); larger images go through the batch job, from bucket to "
                "bucket"
            )

    def begin(self, peer: _Held) -> None:
        """One more body is on its way. Raises OverloadedError when there are too many."""
        share = max(int(self.peer_share * self.max_arriving), 1)
        if self.arriving >= self.max_arriving or peer.arriving >= share:
            raise OverloadedError(
                f"{self.arriving} bodies are on their way, {peer.arriving} of them yours, and at most "
                f"{self.max_arriving} and {share} may be (RAYSCALE_SERVE_MAX_ARRIVING, RAYSCALE_SERVE_PEER_SHARE); "
                "send it again after the time in Retry-After"
            )
        self.arriving += 1
        peer.arriving += 1

    def end(self, peer: _Held) -> None:
        """A body is whole or given up."""
        self.arriving -= 1
        peer.arriving -= 1

    def take(self, peer: _Held, size: int) -> None:
        """``size`` more bytes are held. Raises OverloadedError when there is no room for them."""
        most = max(self.max_bytes, self.max_form_bytes)
        share = max(int(self.peer_share * self.max_pending_bytes), most)
        if self.pending_bytes + size > self.max_pending_bytes or peer.bytes + size > share:
            raise OverloadedError(
                f"{self.pending_bytes} bytes of requests are held, {peer.bytes} of them yours, and at "
                f"most {self.max_pending_bytes} and {share} may be (RAYSCALE_SERVE_MAX_PENDING_BYTES, "
                "RAYSCALE_SERVE_PEER_SHARE); send it again after the time in Retry-After"
            )
        self.pending_bytes += size
        peer.bytes += size

    def give_back(self, peer: _Held, size: int) -> None:
        """The request that held them is over."""
        self.pending_bytes -= size
        peer.bytes -= size


class _Body:
    """One body as it arrives."""

    def __init__(
        self, limit: BodyLimit, peer: _Held, receive: Receive, announced: int, form: bool
    ) -> None:
        self._limit = limit
        self._peer = peer
        self._receive = receive
        self._announced = announced
        self._form = form
        self._taken = 0
        self._began: float | None = None
        self._arriving = False
        self._complete = False

    async def receive(self) -> Message:
        """The next message, within the limits."""
        if self._complete:  # what follows the body is the disconnect, which may take its time
            return await self._receive()
        limit, now = self._limit, asyncio.get_running_loop().time()
        if self._began is None:
            self._began = now
            limit.begin(self._peer)
            self._arriving = True
        deadline = self._began + limit.timeout_s + self._taken / limit.rate
        try:
            async with asyncio.timeout_at(min(deadline, now + limit.idle_s)):
                message = await self._receive()
        except TimeoutError:
            reason = (
                f"no byte came for {limit.idle_s:g} s (RAYSCALE_SERVE_BODY_IDLE_S)"
                if now + limit.idle_s < deadline
                else f"a body may take {limit.timeout_s:g} s and 1 s more for each {limit.rate:g} bytes that came "
                "(RAYSCALE_SERVE_BODY_TIMEOUT_S, RAYSCALE_SERVE_BODY_RATE)"
            )
            raise BodyTimeoutError(
                f"{self._taken} of {self._announced} bytes came: {reason}"
            ) from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            limit.check(self._taken + size, self._form)
            limit.take(self._peer, size)
            self._taken += size
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._complete = True
            self._end()
        return message

    def give_back(self) -> None:
        """The request is over, whole or not."""
        self._end()
        self._limit.give_back(self._peer, self._taken)

    def _end(self) -> None:
        if self._arriving:
            self._arriving = False
            self._limit.end(self._peer)
