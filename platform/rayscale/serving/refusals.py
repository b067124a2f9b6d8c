"""From an error to an HTTP answer in the one form.

Every refusal reads ``{"error": {"status", "code", "message", "limit", "hint", "request_id"}}``; ``limit`` has the value of
every setting that the message names, or is null.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayscale.errors import RayscaleError, StorageError, shown
from rayscale.serving.errors import TABLE, BadParameterError, UnavailableError, hint_of, row_of
from rayscale.serving.requestid import HEADER, current_id
from rayscale.serving.settings import ServeSettings
from rayscale.settings import get_settings

log = logging.getLogger("ray.serve")

RETRIED = (429, 503)
"""Statuses that say when to come back, in ``Retry-After``."""

ERROR_HEADER = "X-Rayscale-Error"
"""The code of a refusal, for whoever does not read its body."""

_INTERNAL = "internal", "the service failed; its log has the details"
_CODES = {404: "not_found", 405: "method_not_allowed"}


class Refusals:
    """Makes the answers of a service with ``settings``."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings

    def describe(self, status: int, code: str, message: str) -> dict[str, Any]:
        """What a refusal says, as JSON."""
        return {
            "status": status,
            "code": code,
            "message": message,
            "limit": self._limits(message) or None,
            "hint": hint_of(status, code),
            "request_id": current_id(),
        }

    def of(self, error: RayscaleError) -> dict[str, Any]:
        """What the refusal of a domain error says; a defect says nothing of itself."""
        row = row_of(error)
        if isinstance(error, StorageError):
            log.error("the object storage failed in request %s: %s", current_id(), error)
            message = "the object storage of the service does not answer; its log has the reason"
            return self.describe(503, UnavailableError.code, message)
        if row is None:
            log.error("unexpected domain error in request %s", current_id(), exc_info=error)
            return self.describe(500, *_INTERNAL)
        return self.describe(row.status, error.code, str(error))

    def answer(
        self,
        told: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        scope: Scope | None = None,
    ) -> JSONResponse:
        """The answer that says it; 429 and 503 say when to come back as well.

        Clients of the Open Inference Protocol expect a text under ``error``: they get it to requests of theirs (``scope``).
        """
        more = {ERROR_HEADER: told["code"], **(headers or {})}
        if told["status"] in RETRIED:
            more.setdefault("Retry-After", str(self.settings.retry_after_s))
        if told["status"] == 401:
            more.setdefault("WWW-Authenticate", "Bearer")
        form: dict[str, Any] = {"error": told}
        if scope is not None and _is_inference(scope):
            form = {"error": told["message"], "details": told}
        return JSONResponse(form, told["status"], more)

    def respond(self, error: RayscaleError, scope: Scope | None = None) -> JSONResponse:
        """The answer to a domain error."""
        wait = getattr(error, "retry_after_s", None)
        headers = {} if wait is None else {"Retry-After": str(wait)}
        return self.answer(self.of(error), headers, scope)

    def internal(self, scope: Scope) -> JSONResponse:
        """The answer to a defect."""
        return self.answer(self.describe(500, *_INTERNAL), scope=scope)

    def rendered(self, status: int, code: str, message: str) -> bytes:
        """A refusal as bytes on a connection that ends with it, for requests that never became one."""
        told = self.describe(status, code, message)
        body = self.answer(told).body
        lines = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"{HEADER}: {told['request_id']}",
            f"{ERROR_HEADER}: {code}",
            "connection: close",
        )
        return "\r\n".join([*lines, "", ""]).encode() + bytes(body)

    def install(self, app: FastAPI) -> None:
        """Make ``app`` answer every error in the one form."""

        async def domain(request: Request, error: Exception) -> JSONResponse:
            assert isinstance(error, RayscaleError)
            return self.respond(error, request.scope)

        async def validation(request: Request, error: Exception) -> JSONResponse:
            assert isinstance(error, RequestValidationError)
            # The first place says only whether it is the query, the body or a header.
            parts = [{**each, "loc": each["loc"][1:]} for each in error.errors()]
            told = self.describe(422, BadParameterError.code, describe_invalid(parts))
            return self.answer(told, scope=request.scope)

        async def http(request: Request, error: Exception) -> JSONResponse:
            assert isinstance(error, HTTPException)
            if error.status_code == 400:  # of FastAPI, which could not read the body
                told = self.describe(422, BadParameterError.code, "the body is not JSON in UTF-8")
                return self.answer(told, scope=request.scope)
            code = _CODES.get(error.status_code, "http")
            told = self.describe(error.status_code, code, str(error.detail))
            headers = dict(error.headers or {})
            if error.status_code == 405:
                # Starlette names the methods of the first route at this path only.
                headers["Allow"] = ", ".join(methods_at(app, request.scope)) or headers["Allow"]
            return self.answer(told, headers, request.scope)

        app.add_exception_handler(RayscaleError, domain)
        app.add_exception_handler(RequestValidationError, validation)
        app.add_exception_handler(HTTPException, http)

    def _limits(self, message: str) -> dict[str, Any]:
        found = {}
        for variable in re.findall(r"RAYSCALE_[A-Z0-9_]+", message):
            name = variable.removeprefix("RAYSCALE_").lower()
            own = name.removeprefix("serve_")
            settings = self.settings if own != name else get_settings()
            if own in type(settings).model_fields:
                value = getattr(settings, own)
                if not isinstance(value, SecretStr):
                    found[variable] = value
        return found


def describe_invalid(errors: Iterable[Mapping[str, Any]]) -> str:
    """What pydantic says of values, with the values."""
    parts = []
    for each in errors:
        text, given = f"{'.'.join(map(str, each['loc']))}: {each['msg']}", each["input"]
        if isinstance(given, str | int | float) and each["type"] != "json_invalid":
            text += f", not {shown(given)}"
        parts.append(text)
    return "; ".join(parts)


def methods_at(app: FastAPI, scope: Scope) -> list[str]:
    """What may be asked at a path; HEAD wherever GET is."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    methods: set[str] = set()
    for template, known in app.openapi()["paths"].items():
        if compile_path(template)[0].match(path):
            methods.update(method.upper() for method in known)
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _is_inference(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith("/v2")


class Guard:
    """Outermost ASGI layer: whatever escapes becomes a 500 (or a domain answer), never a traceback.

    Starlette's own layer for this raises the error again after answering, which Ray Serve would take for a
    broken answer.
    """

    def __init__(self, app: ASGIApp, refusals: Refusals) -> None:
        self.app = app
        self.refusals = refusals

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
            await self.refusals.respond(error, scope)(scope, receive, send)
        except ClientDisconnect:
            log.info(
                "the client of %s %s left before its body was whole", scope["method"], scope["path"]
            )
        except Exception:
            log.exception("unhandled error in %s %s", scope["method"], scope["path"])
            if started:
                raise
            await self.refusals.internal(scope)(scope, receive, send)


_TOLD = {
    "type": "object",
    "required": ["status", "code", "message", "limit", "hint", "request_id"],
    "properties": {
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "message": {"type": "string"},
        "limit": {"type": ["object", "null"]},
        "hint": {"type": ["string", "null"]},
        "request_id": {"type": "string"},
    },
}


def documented_inference(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """As :func:`documented`, in the form of the Open Inference Protocol."""
    entries = documented(*statuses)
    for entry in entries.values():
        content = entry["content"]["application/json"]
        told = content["example"]["error"]
        content["example"] = {"error": told["message"], "details": told}
        content["schema"] = {
            "type": "object",
            "required": ["error", "details"],
            "properties": {"error": {"type": "string"}, "details": _TOLD},
        }
    return entries


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of refusals with these statuses, for an endpoint's ``responses``."""
    form = {"type": "object", "required": ["error"], "properties": {"error": _TOLD}}
    retry = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds to wait"}}
    entries: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        rows = [row for row in TABLE if row.status == status]
        first = rows[0]
        example = {
            "status": status,
            "code": first.code,
            "message": first.meaning,
            "limit": None,
            "hint": first.hint,
            "request_id": "5f1c0d2e9b7a4c36",
        }
        entries[status] = {
            "description": "\n\n".join(f"`{row.code}`: {row.meaning}" for row in rows),
            "content": {"application/json": {"schema": form, "example": {"error": example}}},
            **({"headers": retry} if status in RETRIED else {}),
        }
    return entries
