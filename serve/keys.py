"""API keys: who may call ``/v1``. No users, no quotas; probes and documentation stay open."""

from __future__ import annotations

import hmac

from serve.errors import UnauthorizedError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send


class KeyCheck:
    """Asks for ``Authorization: Bearer KEY`` or ``X-API-Key: KEY`` on paths under ``/v1``.

    Keys never stand in an address, where logs would keep them.
    """

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.keys and _guarded(scope) and not self._known(scope):
            raise UnauthorizedError(
                "this service asks for a key: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            )
        await self.app(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Every key is compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(given.encode(), key) for key in self.keys]
        return any(matches)


def _guarded(scope: Scope) -> bool:
    path: str = scope["path"]
    relative = path.removeprefix(scope.get("root_path", ""))
    return relative == "/v1" or relative.startswith("/v1/")
