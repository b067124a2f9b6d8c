"""How a URI becomes a store: ``s3://bucket/prefix``, or a local folder."""

from __future__ import annotations

import re
from pathlib import Path

from rayscale.errors import ConfigError
from rayscale.storage.local import LocalStore
from rayscale.storage.s3 import S3Store
from rayscale.storage.store import Store

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def connect(uri: str | Path) -> Store:
    """The store rooted at ``s3://bucket/prefix`` or at a local folder (which need not exist yet).

    Endpoint and keys of S3 are read from the environment at first use, by their usual names
    (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ...).
    """
    text = str(uri)
    if text.startswith("s3://"):
        return S3Store(text)
    _refuse_other_schemes(text)
    return LocalStore(Path(text))


def split(uri: str | Path) -> tuple[str, str]:
    """Cut the URI of one object into the URI of its folder and its key there.

    >>> split("s3://bucket/a/b.png")
    ('s3://bucket/a', 'b.png')
    """
    text = str(uri)
    if text.startswith("s3://"):
        parent, slash, key = text[len("s3://") :].rpartition("/")
        if not (slash and parent and key):
            raise ConfigError(f"{text} names no object; expected s3://bucket/key")
        return f"s3://{parent}", key
    _refuse_other_schemes(text)
    path = Path(text)
    if not path.name or text.endswith("/"):
        raise ConfigError(f"{text!r} names no file")
    return str(path.parent), path.name


def _refuse_other_schemes(text: str) -> None:
    if _SCHEME.match(text):
        raise ConfigError(
            f"{text} has an unknown scheme; expected s3://bucket/prefix or a local path"
        )
    if not text:
        raise ConfigError("an empty URI; expected s3://bucket/prefix or a local path")
