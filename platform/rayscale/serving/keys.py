"""API keys: who may call the service, and for what. Probes and documentation stay open.

A key is a long random text that only its owner has; the service knows its sha256. Ray shows what replicas are told to
everybody who sees its dashboard, and such a hash gives nothing away.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rayscale import strictjson
from rayscale.errors import ConfigError
from rayscale.serving.errors import ForbiddenError, UnauthorizedError

_OPEN = ("/v2/health/",)
_GUARDED = ("/v1", "/v2", "/metrics")


def hash_key(key: str) -> str:
    """The sha256 of a key in hexadecimal: what a replica needs to know of it, and all that Ray ever shows."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True)
class Key:
    """What the service knows of a key.

    Attributes:
        id: its name, in logs and metrics.
        sha256: of the key.
        models: patterns (``edsr*``) of the models it may name, by their reference or their name alone; empty: all.
        prefixes: places (``s3://bucket/prefix``) that its batches may read and write; empty: those of the service.
        requests_per_minute, megapixels_per_minute: of the sources; None: no limit.
        priority: its share of a busy service, relative to other keys.

    Raises ConfigError for any other value; the message never holds the hash.
    """

    id: str
    sha256: str
    models: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    requests_per_minute: float | None = None
    megapixels_per_minute: float | None = None
    priority: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.id):
            raise ConfigError(
                f"the name of a key has 1 to 64 letters, digits, dots, dashes or underscores, not {self.id[:80]!r}"
            )
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ConfigError(f"sha256 of the key {self.id} must have 64 hexadecimal digits")
        for name in ("requests_per_minute", "megapixels_per_minute", "priority"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 < value < 1e9):
                raise ConfigError(f"{name} of the key {self.id} must be above 0, not {value!r}")

    @property
    def counted(self) -> bool:
        """Whether anything of it is limited to so much a minute."""
        return self.requests_per_minute is not None or self.megapixels_per_minute is not None

    def check_model(self, reference: str) -> None:
        """Raise ForbiddenError for a model that the key may not name."""
        name = re.split("[@/]", reference)[0]
        if self.models and not any(
            fnmatchcase(reference, pattern) or fnmatchcase(name, pattern) for pattern in self.models
        ):
            raise ForbiddenError(
                f"this key may not use the model {reference!r}, only {', '.join(self.models)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As a file of keys holds it, defaults left out."""
        kept = {each.name: each.default for each in fields(self)}
        values = {name: value for name, value in asdict(self).items() if value != kept[name]}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


ANYONE = Key("anyone", "0" * 64)
"""Whoever calls a service without keys."""


def make_key() -> str:
    """A new key."""
    return f"rk_{secrets.token_urlsafe(32)}"


def parse_keys(text: str, source: str) -> tuple[Key, ...]:
    """Keys of a JSON list of objects with the attributes of :class:`Key`.

    Raises ConfigError, naming ``source``, for any other text, for none, and for two of one name.
    """
    try:
        listed = json.loads(text)
        keys = tuple(_key(values) for values in listed)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{source} is not a JSON list of keys: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    if not keys:
        raise ConfigError(f"{source} holds no key; unset it to serve everyone")
    names = [key.id for key in keys]
    if len(set(names)) < len(names):
        raise ConfigError(f"{source} has two keys of one name")
    return keys


def _key(values: Any) -> Key:
    if not isinstance(values, dict):
        raise TypeError("a key is an object")
    for name in ("models", "prefixes"):
        if name in values:
            if not all(isinstance(each, str) for each in values[name]):
                raise TypeError(f"{name} is a list of texts")
            values[name] = tuple(values[name])
    return Key(**values)


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file, see :func:`parse_keys`. Raises ConfigError also where it cannot be read."""
    try:
        return parse_keys(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}, the file of API keys, cannot be read: {error}. The service does not start without it"
        ) from None


def render_keys(keys: Iterable[Key]) -> str:
    """The text that :func:`parse_keys` reads."""
    return strictjson.dumps([key.to_dict() for key in keys])


class KeyCheck:
    """Asks for ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``, and says whose request it is.

    Keys never stand in an address, where logs would keep them.

    Args:
        app: what is protected.
        keys: those that are let in; none lets everyone in.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[Key]) -> None:
        self.app = app
        self.keys = list(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.keys:
            key = self._find(scope)
            if key is None and _guarded(scope):
                raise UnauthorizedError(
                    "this service asks for a key: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
                )
            scope = {**scope, "rayscale.key": key}
            scope.get("rayscale.caller", {})["key"] = key or ANYONE
        await self.app(scope, receive, send)

    def _find(self, scope: Scope) -> Key | None:
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Every hash is compared, each in constant time: how long it takes tells nothing.
        digest = hash_key(given)
        matches = [hmac.compare_digest(digest, key.sha256) for key in self.keys]
        return self.keys[matches.index(True)] if any(matches) else None


def key_of(scope: Scope) -> Key:
    """Whose request it is."""
    return scope.get("rayscale.key") or ANYONE


def owner_of(scope: Scope) -> str:
    """Who shares places with whom: a key, or without one an address."""
    key = scope.get("rayscale.key")
    if key is not None:
        return f"key {key.id}"
    client = scope.get("client")
    return client[0] if client else ""


def _guarded(scope: Scope) -> bool:
    path: str = scope["path"]
    relative = path.removeprefix(scope.get("root_path", ""))
    if any(relative.startswith(prefix) for prefix in _OPEN):
        return False
    return any(relative == each or relative.startswith(f"{each}/") for each in _GUARDED)
