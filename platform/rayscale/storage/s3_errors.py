"""What an S3 server said, in the words of the user: what to change, and never a key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rayscale.errors import ConfigError, NotFoundError, StorageError, quantity
from rayscale.settings import get_settings
from rayscale.storage.s3_client import is_untrusted, server_name

DENIED = {"AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "401", "403"}
ABSENT = {"NoSuchKey", "NoSuchBucket", "NotFound", "404"}
UNKNOWN = {"NotImplemented", "501", "MethodNotAllowed", "405"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_MESSAGE_CHARS = 300


@contextmanager
def explain(place: str, bucket: str, *, listing: bool = False) -> Iterator[None]:
    """Say in the user's terms what went wrong with ``place`` in the block, and what the server said of it."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions

    server = server_name()
    try:
        yield
    except exceptions.ClientError as error:
        code = code_of(error)
        if code == "NoSuchBucket" or (listing and code in ABSENT):
            raise NotFoundError(f"bucket {bucket!r} does not exist at {server}") from error
        if code in ABSENT:
            raise NotFoundError(f"{place} does not exist at {server}") from error
        said = _quote(error)
        if code in _EXPIRED:
            raise StorageError(
                f"{server} says that the session token has expired, for {place} ({said}); get new keys and set "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN again"
            ) from error
        if code in DENIED:
            pays = " (if its requester pays: RAYSCALE_S3_REQUESTER_PAYS=true)"
            raise StorageError(
                f"{server} denies access to {place} ({said}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, the "
                f"permissions of that key and the bucket{'' if get_settings().s3_requester_pays else pays}"
            ) from error
        if code == "RequestTimeTooSkewed":
            said += "; set the clock of this machine"
        raise StorageError(f"{server} failed on {place}: {said}") from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise StorageError(
            f"there are no keys to open {place}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except exceptions.ParamValidationError as error:
        raise ConfigError(f"{place} is not an S3 address: {error}") from error
    except (exceptions.BotoCoreError, Boto3Error, ConnectionError, ValueError) as error:
        if is_untrusted(error):
            raise StorageError(
                f"the certificate of {server} is not trusted ({_reason(error)}); set AWS_CA_BUNDLE to a file with the "
                "certificate of the authority that signed it"
            ) from error
        attempts = get_settings().storage_attempts
        raise StorageError(
            f"{place} failed at {server} after {quantity(attempts, 'attempt')} ({type(error).__name__}); "
            "check AWS_ENDPOINT_URL and that the server runs"
        ) from error


def code_of(error: Any) -> str:
    """The server's own code of a ``ClientError``."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _quote(error: Any) -> str:
    """Code and message of the server, without the keys that some repeat in it."""
    code = code_of(error)
    message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"):
        if value := os.environ.get(name):
            message = message.replace(value, f"<{name}>")
    if len(message) > _MESSAGE_CHARS:
        message = f"{message[:_MESSAGE_CHARS]} ..."
    return f"{code}: {message}" if message else code


def _reason(error: BaseException) -> str:
    """Why a certificate was refused, as OpenSSL says it."""
    _, _, reason = str(error).partition("certificate verify failed: ")
    return reason.partition(" (_ssl")[0] or "certificate verify failed"
