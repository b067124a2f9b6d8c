"""How an ingress ends without losing what it has accepted. Pure ASGI; nothing about images or Ray.

Ray Serve ends all deployments of an application at once, and a request that waits for a model replica then waits for one that
never comes, until its deadline. So the ingresses are emptied first, while there are replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from rayscale.serving.errors import UnavailableError


class Drain:
    """The requests in progress, and whether new ones may come."""

    def __init__(self) -> None:
        self._ends = False
        self._open: set[asyncio.Timeout] = set()
        self._empty = asyncio.Event()

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """The time of one request. Raises UnavailableError when the service ends, before it or too long after it began."""
        if self._ends:
            raise UnavailableError(
                "the service is stopping; send it again after the time in Retry-After"
            )
        limit = asyncio.timeout(None)
        self._open.add(limit)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise UnavailableError(
                "the service stopped before this was done; send it again after the time in Retry-After"
            ) from None
        finally:
            self._open.discard(limit)
            if not self._open:
                self._empty.set()

    async def close(self, grace_s: float) -> None:
        """Admit no more; return when all others are done. After ``grace_s`` seconds they are given up."""
        self._ends = True
        deadline = asyncio.get_running_loop().time() + grace_s
        for limit in self._open:
            limit.reschedule(deadline)
        if self._open:
            self._empty.clear()
            await self._empty.wait()


class Door:
    """Every HTTP request of ``app`` goes through ``drain``."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self.app = app
        self.drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        async with self.drain.admit():
            await self.app(scope, receive, send)
