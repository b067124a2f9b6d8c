"""The answer to several images: one entry each, a result or a refusal, written as they come.

``Mixed`` is ``multipart/mixed``, ``Zip`` an archive. Neither holds more than the entry at hand.
"""

from __future__ import annotations

import io
import re
import secrets
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol
from urllib.parse import quote

from rayscale import strictjson
from rayscale.imaging import MIME
from rayscale.serving.headers import result_headers
from rayscale.serving.requests import Result

_ENDINGS = {"jpeg": "jpg", "tiff": "tif"}


@dataclass(frozen=True)
class Entry:
    """What came of one image.

    Attributes:
        number: from 1, in the order of the request.
        name: of its file.
        outcome: the result, or what its refusal says (``Refusals.of``).
    """

    number: int
    name: str
    outcome: Result | Mapping[str, Any]

    def summary(self, file: str) -> dict[str, Any]:
        """The entry without its bytes, which are in ``file``."""
        told: dict[str, Any] = {"number": self.number, "name": self.name, "file": file}
        if isinstance(self.outcome, Result):
            return told | {"status": 200, "headers": result_headers(self.outcome)}
        return told | {"status": self.outcome["status"], "error": dict(self.outcome)}


class Parcel(Protocol):
    """A way to write entries."""

    media_type: str

    def add(self, entry: Entry) -> bytes:
        """The bytes of an entry, to be sent now."""

    def end(self) -> bytes:
        """What follows the last one."""


def parcel_for(accept: str) -> Parcel:
    """An archive where the client accepts one, else ``multipart/mixed``."""
    return Zip() if "application/zip" in accept.lower() else Mixed()


def larger_name(name: str, number: int, format: str | None) -> str:
    """What the enlargement of the file ``name`` is called: the same, with the ending of the ``format`` that was asked for."""
    name = re.sub(r"[\x00-\x1f\x7f]", "", name).strip(". ") or f"image-{number}"
    if format is None:
        return name
    return str(PurePosixPath(name).with_suffix(f".{_ENDINGS.get(format, format)}"))


class Mixed:
    """``multipart/mixed``: a part an entry, with the headers that an answer of one image has."""

    def __init__(self) -> None:
        self._boundary = secrets.token_hex(16)
        self.media_type = f"multipart/mixed; boundary={self._boundary}"

    def add(self, entry: Entry) -> bytes:
        """One part."""
        outcome = entry.outcome
        if isinstance(outcome, Result):
            data, kind, status = outcome.data, MIME[outcome.container], 200
            more = result_headers(outcome)
        else:
            data, kind = _json({"error": outcome}), "application/json"
            status, more = outcome["status"], {}
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(entry.name)}",
            "X-Rayscale-Number": str(entry.number),
            "X-Rayscale-Status": str(status),
            **more,
        }
        lines = [f"--{self._boundary}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + data + b"\r\n"

    def end(self) -> bytes:
        """The last boundary."""
        return f"--{self._boundary}--\r\n".encode()


class Zip:
    """An archive: a file an entry, ``NAME.error.json`` for a refusal, and ``results.json`` about all of them."""

    media_type = "application/zip"

    def __init__(self) -> None:
        self._sink = _Sink()
        self._archive = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_STORED)
        self._names = {"results.json"}
        self._summaries: list[dict[str, Any]] = []

    def add(self, entry: Entry) -> bytes:
        """One file."""
        outcome = entry.outcome
        found = isinstance(outcome, Result)
        name = entry.name if found else f"{entry.name}.error.json"
        if name in self._names:
            name = f"{entry.number:04d}-{name}"
        self._names.add(name)
        self._summaries.append(entry.summary(name))
        data = outcome.data if isinstance(outcome, Result) else _json({"error": outcome})
        self._archive.writestr(zipfile.ZipInfo(name), data)
        return self._sink.take()

    def end(self) -> bytes:
        """The summary and the directory."""
        self._archive.writestr(zipfile.ZipInfo("results.json"), _json(self._summaries))
        self._archive.close()
        return self._sink.take()


def zip_files(files: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """An archive of files by their names, part by part; none of them is held longer than it takes to pass it on."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data)
            yield sink.take()
    yield sink.take()


class _Sink(io.RawIOBase):
    """Takes what is written until it is sent; cannot seek."""

    def __init__(self) -> None:
        super().__init__()
        self._written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._written.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        written, self._written = self._written, []
        return b"".join(written)


def _json(value: Any) -> bytes:
    return strictjson.dumps(value).encode()
