"""What a store says of the bytes of an object, so that damage on the way is found."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

_MD5 = re.compile(r"[0-9a-f]{32}")


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class Checksum:
    """The digest of an object as its bytes arrive, beside the one that an answer of ``GetObject`` promises.

    That is the first there is of CRC64NVME, CRC32C, CRC32, SHA-256 and SHA-1 of the whole object (that of an upload in parts
    may be one of its parts), else the ETag where it is an MD5: not for uploads in parts nor for encrypted objects. Where
    nothing is promised, every content matches.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        self._promised, self._hash = _promise(answer)

    def update(self, data: bytes) -> None:
        """Add the next bytes."""
        if self._hash is not None:
            self._hash.update(data)

    def matches(self) -> bool:
        """Whether the bytes so far are those that were promised."""
        return self._hash is None or self._hash.digest() == self._promised


def _promise(answer: dict[str, Any]) -> tuple[bytes, _Hash | None]:
    if answer.get("ChecksumType") != "COMPOSITE":
        for name, make in ALGORITHMS.items():
            text = answer.get(f"Checksum{name}") or "-"  # "-3" at the end: of three parts
            try:
                return base64.b64decode(text, validate=True), make()
            except binascii.Error:
                continue
    tag = answer["ETag"].strip('"')
    encrypted = answer.get("ServerSideEncryption") or answer.get("SSECustomerAlgorithm")
    if _MD5.fullmatch(tag) and not encrypted:
        return bytes.fromhex(tag), hashlib.md5(usedforsecurity=False)
    return b"", None


class _Crc:
    """A cyclic redundancy check with the interface of ``hashlib``."""

    def __init__(self, compute: Callable[[bytes, int], int], length: int) -> None:
        self._compute, self._length, self._value = compute, length, 0

    def update(self, data: bytes) -> None:
        self._value = self._compute(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length, "big")


def _amazon_crc(name: str, length: int) -> _Crc:
    from awscrt import checksums

    return _Crc(getattr(checksums, name), length)


ALGORITHMS: dict[str, Callable[[], _Hash]] = {
    "CRC64NVME": partial(_amazon_crc, "crc64nvme", 8),
    "CRC32C": partial(_amazon_crc, "crc32c", 4),
    "CRC32": partial(_Crc, zlib.crc32, 4),
    "SHA256": partial(hashlib.sha256, usedforsecurity=False),
    "SHA1": partial(hashlib.sha1, usedforsecurity=False),
}
"""By the names that fields of S3's answers end with."""
