"""Telling another system that a batch has ended: a signed POST, to hosts that were named beforehand."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from rayscale import strictjson
from rayscale.serving.errors import SourceNotAllowedError
from rayscale.serving.settings import ServeSettings

log = logging.getLogger(__name__)

SIGNATURE = "X-Rayscale-Signature"
_TRIES, _TIMEOUT_S = 3, 10.0


def check_webhook(url: str, settings: ServeSettings) -> None:
    """Raise SourceNotAllowedError for an address that is not HTTPS to an allowed host (HTTP on loopback), or without a secret."""
    allowed = settings.hosts()
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    named = host in allowed or f"{host}:{port}" in allowed
    loopback = parts.scheme == "http" and host in ("127.0.0.1", "localhost")
    if not named or parts.username or not (parts.scheme == "https" or loopback):
        raise SourceNotAllowedError(
            f"{url[:200]!r} is not an https address of a host that webhooks may go to: "
            + (", ".join(allowed) or "there is none (RAYSCALE_SERVE_WEBHOOK_HOSTS)")
        )
    if settings.webhook_secret is None:
        raise SourceNotAllowedError(
            "webhooks need a secret to sign with, RAYSCALE_SERVE_WEBHOOK_SECRET in the environment of the cluster"
        )


def sign(body: bytes, secret: str, now: int) -> str:
    """``t=SECONDS,v1=HEX``: HMAC-SHA256 of ``SECONDS.BODY``. Compare it in constant time, and refuse old ones."""
    digest = hmac.new(secret.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={now},v1={digest}"


def send(url: str, told: Mapping[str, str], settings: ServeSettings) -> bool:
    """Whether the end of a batch (its ``id``, ``state`` and ``target``) arrived at ``url``.

    Raises SourceNotAllowedError, see :func:`check_webhook`.
    """
    check_webhook(url, settings)
    assert settings.webhook_secret is not None
    body = strictjson.dumps({"event": "batch.ended", **told}).encode()
    for attempt in range(_TRIES):
        signature = sign(body, settings.webhook_secret.get_secret_value(), int(time.time()))
        try:
            answer = httpx.post(
                url,
                content=body,
                headers={"Content-Type": "application/json", SIGNATURE: signature},
                timeout=_TIMEOUT_S,
                follow_redirects=False,
                trust_env=False,
            )
            if answer.is_success:
                return True
            log.warning("the webhook of the batch %s answered %d", told["id"], answer.status_code)
        except httpx.HTTPError as error:
            log.warning("the webhook of the batch %s failed: %s", told["id"], type(error).__name__)
        time.sleep(2**attempt)
    return False
