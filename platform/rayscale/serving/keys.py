"""API keys: who may call ``/v1``. No users, no quotas; probes and documentation stay open."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rayscale.serving.errors import UnauthorizedError


def hash_key(key: str) -> str:
    """The sha256 of a key in hexadecimal: what a replica needs to know of it, and all that Ray ever shows."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyCheck:
    """Asks for ``Authorization: Bearer KEY`` or ``X-API-Key: KEY`` on paths under ``/v1``.

    Keys never stand in an address, where logs would keep them.

    Args:
        app: what is protected.
        hashes: of the keys that are let in (:func:`hash_key`); none lets everyone in.
    """

    def __init__(self, app: ASGIApp, hashes: Iterable[str]) -> None:
        self.app = app
        self.hashes = list(hashes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.hashes and _guarded(scope) and not self._known(scope):
            raise UnauthorizedError(
                "this service asks for a key: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            )
        await self.app(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Every hash is compared, each in constant time: how long it takes tells nothing.
        digest = hash_key(given)
        matches = [hmac.compare_digest(digest, known) for known in self.hashes]
        return any(matches)


def _guarded(scope: Scope) -> bool:
    path: str = scope["path"]
    relative = path.removeprefix(scope.get("root_path", ""))
    return relative == "/v1" or relative.startswith("/v1/")
