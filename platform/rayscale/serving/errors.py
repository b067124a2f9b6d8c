"""From an error to an HTTP answer: one table, one JSON form.

Every refusal reads ``{"error": {"code": ..., "message": ...}}``. Endpoints raise and contain no handling of
their own; what is in no row of the table is a defect and answers 500 without telling internals.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayscale.errors import (
    InputError,
    NotFoundError,
    OutOfMemoryError,
    RayscaleError,
    TooLargeError,
    UnsupportedError,
)

log = logging.getLogger("ray.serve")


class BadParameterError(RayscaleError):
    """A query parameter that cannot be honoured."""

    code = "bad_parameter"


class LengthRequiredError(RayscaleError):
    """A body whose length is not announced."""

    code = "length_required"


class BodyTimeoutError(RayscaleError):
    """A body that did not arrive in time."""

    code = "body_timeout"


class UnauthorizedError(RayscaleError):
    """No API key, or one that is not known."""

    code = "unauthorized"


class SourceNotAllowedError(RayscaleError):
    """A path or an address where only a name of the registry may stand."""

    code = "source_not_allowed"


class OverloadedError(RayscaleError):
    """More work than the queues may hold; the same request will do later."""

    code = "overloaded"


class UnavailableError(RayscaleError):
    """A part of the service is gone for the moment."""

    code = "unavailable"


class DeadlineError(RayscaleError):
    """The answer took longer than the service may take."""

    code = "deadline_exceeded"


# The first row whose class fits decides, so subclasses stand above their bases.
STATUS: Mapping[type[RayscaleError], int] = {
    UnauthorizedError: 401,
    SourceNotAllowedError: 403,
    NotFoundError: 404,
    BodyTimeoutError: 408,
    LengthRequiredError: 411,
    TooLargeError: 413,
    UnsupportedError: 415,
    InputError: 422,
    BadParameterError: 422,
    OverloadedError: 429,
    UnavailableError: 503,
    DeadlineError: 504,
    OutOfMemoryError: 507,
}

_RETRIED = (429, 503)
_INTERNAL = "the service failed; its log has the details"


def status_of(error: RayscaleError) -> int:
    """The HTTP status of ``error``; 500 for one that the table does not know."""
    return next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)


def answer(status: int, code: str, message: str, headers: Mapping[str, str]) -> JSONResponse:
    """The one form of every refusal."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, dict(headers))


def rendered(status: int, code: str, message: str) -> bytes:
    """The same as bytes on a connection that ends with it, for requests that never became one."""
    body = answer(status, code, message, {}).body
    lines = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    )
    return "\r\n".join([*lines, "", ""]).encode() + bytes(body)


def refusal(error: RayscaleError, retry_after_s: int) -> JSONResponse:
    """The answer to a domain error; 429 and 503 say when to come back."""
    status = status_of(error)
    if status == 500:
        log.error("unexpected domain error", exc_info=error)
        return answer(500, "internal", _INTERNAL, {})
    headers = {"Retry-After": str(retry_after_s)} if status in _RETRIED else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return answer(status, error.code, str(error), headers)


def install(app: FastAPI, retry_after_s: int) -> None:
    """Make ``app`` answer every error in the one form."""

    async def domain(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RayscaleError)
        return refusal(error, retry_after_s)

    async def validation(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        parts = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()]
        return answer(422, BadParameterError.code, "; ".join(parts), {})

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http")
        return answer(error.status_code, code, str(error.detail), error.headers or {})

    app.add_exception_handler(RayscaleError, domain)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


class Guard:
    """Outermost ASGI layer: whatever escapes becomes a 500 (or a domain answer), never a traceback.

    Starlette's own layer for this raises the error again after answering, which Ray Serve would take for a
    broken answer.
    """

    def __init__(self, app: ASGIApp, retry_after_s: int) -> None:
        self.app = app
        self.retry_after_s = retry_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except RayscaleError as error:
            if started:
                raise
            await refusal(error, self.retry_after_s)(scope, receive, send)
        except ClientDisconnect:
            log.info(
                "the client of %s %s left before its body was whole", scope["method"], scope["path"]
            )
        except Exception:
            log.exception("unhandled error in %s %s", scope["method"], scope["path"])
            if started:
                raise
            await answer(500, "internal", _INTERNAL, {})(scope, receive, send)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of refusals with these statuses, for an endpoint's ``responses``."""
    form = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
            }
        },
    }
    retry = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds to wait"}}
    entries: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kinds = [kind for kind, code in STATUS.items() if code == status]
        texts = [f"`{kind.code}`: {(kind.__doc__ or '').strip()}" for kind in kinds]
        entries[status] = {
            "description": "\n\n".join(texts)
            or "Unexpected failure; the message names no internals.",
            "content": {"application/json": {"schema": form}},
            **({"headers": retry} if status in _RETRIED else {}),
        }
    return entries
