"""The S3 client of a process, and its patience with a server that does not answer.

Endpoint, keys, region and certificates come from the variables boto3's users know, all else from the settings
(``RAYSCALE_S3_*``). The retries of botocore end within seconds, and after
some hundred of a process; those here outlast a server that is gone for a minute.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from rayscale.errors import ConfigError, without_passwords
from rayscale.settings import Settings, get_settings

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0  # between attempts; 10 of them take 68 to 92 s
_CONNECTIONS = 32
_TRANSIENT = {
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    # The body was damaged or cut on its way up, whatever the status.
    "BadDigest",
    "IncompleteBody",
}
_TRANSIENT_STATUS = {429, 500, 502, 503, 504}

_clients: dict[tuple[object, ...], Any] = {}
_clients_lock = threading.Lock()


def endpoint() -> str | None:
    """The server that the environment names; None is AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def server_name() -> str:
    """What messages call the server."""
    return without_passwords(endpoint() or "AWS S3")


def get_client() -> Any:
    """The client of this process for the present environment: one connection pool, safe between threads.

    What the settings ask of requests (``docs/storage.md``) is in every call of it. Raises ConfigError for settings that
    cannot work.
    """
    settings = get_settings()
    variables = sorted(pair for pair in os.environ.items() if pair[0].startswith("AWS_"))
    # A forked child must not use the sockets of its parent, so the process is part of the name.
    name = (os.getpid(), settings.model_dump_json(), *variables)
    with _clients_lock:
        if name not in _clients:
            _clients[name] = _make_client(settings)
        return _clients[name]


def _make_client(settings: Settings) -> Any:
    import boto3.session
    from botocore.config import Config

    _check(settings)
    server = endpoint()
    session = boto3.session.Session()
    config: dict[str, Any] = {
        # boto3 still makes presigned addresses by version 2, which newer regions of AWS and objects under KMS refuse.
        "signature_version": "s3v4",
        "retries": {"mode": "standard", "total_max_attempts": 1},  # see _retry
        "connect_timeout": min(_CONNECT_TIMEOUT_S, settings.storage_timeout_s),
        "read_timeout": settings.storage_timeout_s,
        "max_pool_connections": _CONNECTIONS,
        "tcp_keepalive": True,
    }
    region = os.environ.get("AWS_REGION") or session.region_name
    style = settings.s3_addressing
    if server:
        region = region or "us-east-1"
        # Servers older than 2025 refuse the checksums that boto3 adds for AWS by default.
        if "AWS_REQUEST_CHECKSUM_CALCULATION" not in os.environ:
            config["request_checksum_calculation"] = "when_required"
    if style == "auto":
        profile: dict[str, Any] = session._session.get_scoped_config().get("s3") or {}
        # Names of buckets are in the DNS of few servers but AWS; there, "auto" presigns addresses without the region.
        style = profile.get("addressing_style") or ("path" if server else "virtual")
    config["s3"] = {"addressing_style": style}
    client = session.client("s3", endpoint_url=server, region_name=region, config=Config(**config))
    events = client.meta.events
    events.register_first("needs-retry.s3", _retry)  # type: ignore[arg-type]  # it returns seconds
    events.register("provide-client-params.s3", partial(_add_settings, settings))
    events.register("before-sign.s3", _put_into_address)
    return client


def _check(settings: Settings) -> None:
    """Refuse at once what each request would fail of."""
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle and not os.path.exists(bundle):
        raise ConfigError(
            f"AWS_CA_BUNDLE={bundle} does not exist on this machine; give a file of certificates"
        )
    if settings.s3_kms_key_id and not settings.s3_encryption.startswith("aws:kms"):
        raise ConfigError(
            "RAYSCALE_S3_KMS_KEY_ID names a key, but objects are not encrypted with it; "
            "set RAYSCALE_S3_ENCRYPTION=aws:kms"
        )


def _add_settings(settings: Settings, params: dict[str, Any], model: Any, **_: object) -> None:
    """Who pays and how objects are encrypted: in each request that can say it; asked by botocore."""
    members = model.input_shape.members
    if settings.s3_requester_pays and "RequestPayer" in members:
        params.setdefault("RequestPayer", "requester")
    if settings.s3_encryption and "ServerSideEncryption" in members:
        params.setdefault("ServerSideEncryption", settings.s3_encryption)
        if settings.s3_kms_key_id:
            params.setdefault("SSEKMSKeyId", settings.s3_kms_key_id)


def _put_into_address(request: Any, signature_version: str, **_: object) -> None:
    """Whoever gets a presigned address sends no headers of S3 with it; asked by botocore."""
    if signature_version.endswith("-query"):
        for name in [name for name in request.headers if name.lower().startswith("x-amz-")]:
            request.params[name.lower()] = request.headers[name]
            del request.headers[name]


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
        logger.warning("no answer from %s (attempt %d): %s", server_name(), attempts, name)
        transient = isinstance(
            caught_exception, exceptions.ConnectionError | exceptions.HTTPClientError
        ) and not is_untrusted(caught_exception)
    else:
        answer, parsed = response or (None, {})
        code = str(parsed.get("Error", {}).get("Code", ""))
        transient = getattr(answer, "status_code", 0) in _TRANSIENT_STATUS or code in _TRANSIENT
    return _pause(attempts) if transient and attempts < get_settings().storage_attempts else None


def is_untrusted(error: BaseException) -> bool:
    """Whether the server showed a certificate that this machine does not trust: to ask again changes nothing."""
    from botocore.exceptions import SSLError

    return isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


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
