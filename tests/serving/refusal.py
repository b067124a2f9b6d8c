"""The form of a refusal."""

from __future__ import annotations

from typing import Any


def refused(response: Any, status: int, code: str | None = None) -> str:
    """The message of a refusal, after checking its status and form."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"status", "code", "message", "limit", "hint", "request_id"}
    assert body["error"]["status"] == status
    assert body["error"]["hint"]
    assert body["error"]["request_id"] == response.headers["x-request-id"]
    assert code is None or body["error"]["code"] == code
    assert ("retry-after" in response.headers) == (status in (429, 503))
    return str(body["error"]["message"])
