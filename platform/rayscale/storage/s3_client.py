"""The S3 client of a process, and its patience with a server that does not answer.

Endpoint, keys and region come from the variables boto3's users know. The retries of botocore end within seconds, and after
some hundred of a process; those here outlast a server that is gone for a minute.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

from rayscale.settings import get_settings

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0  # between attempts; 10 of them take 68 to 92 s
_CONNECTIONS = 32
_VARIABLES = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
)
_TRANSIENT = {
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
}
_TRANSIENT_STATUS = {429, 500, 502, 503, 504}

_clients: dict[tuple[object, ...], Any] = {}
_clients_lock = threading.Lock()


def endpoint() -> str | None:
    """The server that the environment names; None is AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def get_client() -> Any:
    """The client of this process for the present environment: one connection pool, safe between threads."""
    settings = get_settings()
    # A forked child must not use the sockets of its parent, so the process is part of the name.
    name = (os.getpid(), settings.storage_attempts, *map(os.environ.get, _VARIABLES))
    with _clients_lock:
        if name not in _clients:
            import boto3.session
            from botocore.config import Config

            server = endpoint()
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            config: dict[str, Any] = {
                "retries": {"mode": "standard", "total_max_attempts": 1},  # see _retry
                "connect_timeout": min(_CONNECT_TIMEOUT_S, settings.storage_timeout_s),
                "read_timeout": settings.storage_timeout_s,
                "max_pool_connections": _CONNECTIONS,
                "tcp_keepalive": True,
            }
            if server:
                region = region or "us-east-1"
                config["s3"] = {"addressing_style": "path"}
                # Servers older than 2025 refuse the checksums that boto3 adds for AWS by default.
                config["request_checksum_calculation"] = "when_required"
            client = boto3.session.Session().client(
                "s3", endpoint_url=server, region_name=region, config=Config(**config)
            )
            client.meta.events.register_first("needs-retry.s3", _retry)  # type: ignore[arg-type]  # it returns seconds
            _clients[name] = client
        return _clients[name]


def _retry(
    attempts: int,
    response: tuple[Any, dict[str, Any]] | None = None,
    caught_exception: Exception | None = None,
    **_: object,
) -> float | None:
    """Seconds to wait before another attempt of a request, None to let it be; asked by botocore after each."""
    from botocore import exceptions

    if caught_exception is not None:
        # Said at once: the attempts that follow would look like a hang.
        name = type(caught_exception).__name__
        logger.warning("no answer from %s (attempt %d): %s", endpoint() or "AWS S3", attempts, name)
        transient = isinstance(
            caught_exception, exceptions.ConnectionError | exceptions.HTTPClientError
        )
    else:
        answer, parsed = response or (None, {})
        code = str(parsed.get("Error", {}).get("Code", ""))
        transient = getattr(answer, "status_code", 0) in _TRANSIENT_STATUS or code in _TRANSIENT
    return _pause(attempts) if transient and attempts < get_settings().storage_attempts else None


def _pause(attempts: int) -> float:
    """Seconds between the attempt of this number and the next."""
    longest = min(_FIRST_PAUSE_S * 2.0 ** (attempts - 1), _LONGEST_PAUSE_S)
    return random.uniform(0.75, 1) * longest


def paced_attempts() -> Iterator[int]:
    """Numbers from 1, with a growing random pause before each but the first."""
    for attempt in range(1, get_settings().storage_attempts + 1):
        if attempt > 1:
            time.sleep(_pause(attempt - 1))
        yield attempt
