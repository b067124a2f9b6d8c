"""A double of an S3 server that says what the test wants, and keeps what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from rayscale.settings import get_settings

_S3 = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@dataclass
class Request:
    """What a client asked; names of headers in small letters."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Double(ThreadingHTTPServer):
    """Answers as ``reply`` says and keeps the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply: Callable[[Request], Answer] = lambda _: Answer()
        self.asked: list[Request] = []


class _Handler(BaseHTTPRequestHandler):
    server: Double
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        place = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(place.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(place.path), query, headers, body)
        self.server.asked.append(request)
        answer = self.server.reply(request)
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815


def configure(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"RAYSCALE_{name.upper()}", value)
    get_settings.cache_clear()


def answer_error(code: str, message: str, status: int = 403) -> Answer:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, text.encode(), {"Content-Type": "application/xml"})


def answer_listing(keys: list[str], cut: bool, extra: str = "") -> Answer:
    items = "".join(
        f'<Contents><Key>{key}</Key><Size>1</Size><ETag>"e"</ETag></Contents>' for key in keys
    )
    text = f"<ListBucketResult {_S3}><IsTruncated>{str(cut).lower()}</IsTruncated>{extra}{items}</ListBucketResult>"
    return Answer(200, text.encode())
