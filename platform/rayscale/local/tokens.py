"""Secrets of the embedded stack that a program asks its clients for: made at first use, for the owner only."""

from __future__ import annotations

import secrets
from pathlib import Path

from rayscale.files import replacing


def token(path: Path) -> str:
    """The secret in the file ``path``."""
    if not path.is_file():
        with replacing(path, private=True) as file:
            file.write(secrets.token_hex(32).encode())
    return path.read_text()
