"""What a client says to a service and how it understands the answer; no connection here."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import quote

import httpx

from rayscale import __version__, strictjson
from rayscale.errors import ConfigError, RayscaleError, expect
from rayscale.files import check_distinct
from rayscale.options import Format, Options

SERVER, KEY = "RAYSCALE_SERVER", "RAYSCALE_KEY"

ENDED = ("done", "partial", "failed", "cancelled")
"""Last states of a batch."""


class ServiceError(RayscaleError):
    """A refusal of the service, or no answer.

    Attributes:
        status: of HTTP; 0 without an answer.
        code, hint, request_id: as the service says, see the reference of HTTP.
    """

    code = "service"

    def __init__(
        self, message: str, status: int = 0, code: str = "", hint: str = "", request_id: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.hint, self.request_id = status, hint, request_id
        self.reason = code


@dataclass(frozen=True)
class Answer:
    """What came back for an image.

    Attributes:
        data: the file; empty where it was written to a target.
        model, digest, scale: what made it.
        width, height: of its pixels.
        residual: with ``consistency``.
        notes: of its reader.
        headers: all of them, such as ``server-timing``.
        uncertainty: never: an answer holds one image.
    """

    data: bytes = field(repr=False)
    model: str
    digest: str
    scale: float
    width: int
    height: int
    residual: dict[str, float] | None
    notes: tuple[str, ...]
    headers: Mapping[str, str] = field(repr=False)
    uncertainty: None = None


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def settings(address: str | None, key: str | None, timeout_s: float) -> dict[str, Any]:
    """Arguments of an httpx client; address and key from the environment where they are None."""
    address = address or os.environ.get(SERVER)
    if not address:
        raise ConfigError(f"name the service: its address, or {SERVER} in the environment")
    expect(address, str, "the address of the service, such as 'http://localhost:8000'")
    if "://" not in address:
        address = f"http://{address}"
    key = key or os.environ.get(KEY)
    if key and not (isinstance(key, str) and key.isascii() and key.isprintable()):
        raise ConfigError(
            f"a key is a line of ASCII; look at the one in {KEY}, or at what was given"
        )
    headers = {"User-Agent": f"rayscale/{__version__}"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return {"base_url": address.rstrip("/"), "headers": headers, "timeout": timeout_s}


def upscale(
    source: str | Path | bytes,
    model: str | None,
    options: Mapping[str, Any],
    path: str = "upscale",
    target: str | Path | None = None,
) -> Call:
    """An image, or what it would take; with a target, in the format of its name."""
    expect(source, (str, PathLike, bytes), "the path of a file, or its bytes")
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    asked = Options(**options)
    if target is not None:
        if not isinstance(source, bytes):
            check_distinct(Path(source), Path(target))
        asked = replace(asked, format=_format_for(data, source, str(target), asked.format))
    params = {name: _text(value) for name, value in asked.to_texts().items()}
    if model is not None:
        params["model"] = model
    return Call("POST", f"/v1/{path}", params, data, {"Content-Type": "application/octet-stream"})


def submit(
    source: str, target: str, model: str | None, options: Mapping[str, Any], more: Mapping[str, Any]
) -> Call:
    """A batch; the same ``idempotency_key`` is the same batch."""
    values = {name: value for name, value in more.items() if value is not None}
    key = values.pop("idempotency_key", None) or uuid.uuid4().hex
    told = {"source": source, "target": target, "options": Options(**options).to_texts(), **values}
    if model is not None:
        told["model"] = model
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    return Call("POST", "/v1/batches", content=strictjson.dumps(told).encode(), headers=headers)


def _format_for(
    data: bytes, source: str | Path | bytes, target: str, format: Format | None
) -> Format | None:
    """The format to ask for, so that the file is what its name says; None for that of the source."""
    from rayscale.imaging import container_for, ending_of

    name = str(source)
    if isinstance(source, bytes):  # its target may be called anything
        name = "" if ending_of(target) else target
    wanted = container_for(data, name, target, format)
    if wanted is None:
        return None
    for known in get_args(Format):
        if wanted == known:
            return cast(Format, known)
    raise ConfigError(
        f"{target}: a service makes {wanted.upper()} of nothing else; end it in .{', .'.join(get_args(Format))}"
    )


def begin_upload(name: str, size: int) -> Call:
    """A file that is to come in parts."""
    return _post("/v1/uploads", {"name": name, "bytes": size})


def complete_upload(upload: str, etags: list[str]) -> Call:
    """All of its parts have come."""
    parts = [{"number": number, "etag": etag} for number, etag in enumerate(etags, 1)]
    return _post(f"/v1/uploads/{upload}", {"parts": parts})


def get(path: str, **params: Any) -> Call:
    """Something to look at."""
    return Call("GET", path, params)


def model_path(name: str) -> str:
    """Of the card of a model."""
    return f"/v1/models/{quote(name)}"


def batch_path(batch: str, what: str = "") -> str:
    """Of a batch."""
    return f"/v1/batches/{quote(batch, safe='')}{what}"


def check(response: httpx.Response) -> None:
    """Raise ServiceError for a refusal, whose body was read."""
    if not response.is_error:
        return
    try:
        told = response.json()["error"]
        code, hint, message = told["code"], told.get("hint") or "", told["message"]
    except (ValueError, KeyError, TypeError):
        code, hint, message = "", "", f"{response.text[:200]}"
    text = f"{message} (status {response.status_code}{f', {code}' * bool(code)}). {hint}".strip()
    request_id = response.headers.get("x-request-id", "")
    raise ServiceError(text, response.status_code, code, hint, request_id)


def unreachable(address: object, error: httpx.TransportError) -> ServiceError:
    """For a service that does not answer."""
    reason = str(error) or type(error).__name__
    return ServiceError(f"{address} does not answer: {reason}. Is the service running there?")


def read_answer(response: httpx.Response, data: bytes) -> Answer:
    """What the headers say of an image."""
    headers = response.headers
    residual = None
    if "x-rayscale-residual" in headers:
        parts = (part.split("=") for part in headers["x-rayscale-residual"].split(", "))
        residual = {name: float(value) for name, value in parts}
    notes = strictjson.loads(headers.get("x-rayscale-notes", "[]"))
    return Answer(
        data,
        headers.get("x-rayscale-model", ""),
        headers.get("x-rayscale-weights-sha256", ""),
        float(headers.get("x-rayscale-scale", 0)),
        int(headers.get("x-rayscale-width", 0)),
        int(headers.get("x-rayscale-height", 0)),
        residual,
        tuple(notes),
        headers,
    )


def read_event(lines: list[str]) -> dict[str, Any] | None:
    """The batch of a server-sent event; None for a comment."""
    data = "\n".join(line[5:].strip() for line in lines if line.startswith("data:"))
    return strictjson.loads(data) if data else None


def _post(path: str, told: Any) -> Call:
    headers = {"Content-Type": "application/json"}
    return Call("POST", path, content=strictjson.dumps(told).encode(), headers=headers)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
