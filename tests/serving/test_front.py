"""The front of the proxies on real sockets: heads that are large, slow or broken, and answers that are not the application's."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from ray.serve._private.http_util import validate_http_proxy_callback_return
from ray.serve._private.utils import call_function_from_import_path
from starlette.responses import JSONResponse, PlainTextResponse
from tests.plugins.web import listening

from rayscale.local import ray
from rayscale.serving import front
from rayscale.serving.requestid import RequestId
from rayscale.serving.settings import get_serve_settings

GET = b"GET /fine HTTP/1.1\r\nHost: x\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers as the proxy of Ray Serve does: with text, or (``/lost``) not at all."""
    if scope["path"] == "/lost":
        return
    if scope["path"].startswith("/text"):
        status = int(scope["path"].removeprefix("/text"))
        await PlainTextResponse("Internal Server Error", status)(scope, receive, send)
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    status = 422 if scope["path"] == "/refused" else 200
    await JSONResponse({"size": size}, status)(scope, receive, send)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    get_serve_settings.cache_clear()
    yield
    get_serve_settings.cache_clear()


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], socket.socket]]:
    """Opens connections to a server behind the front, whose heads may take half a second."""
    monkeypatch.setenv("RAYSCALE_SERVE_HEAD_TIMEOUT_S", "0.5")
    how = {"http": front.Protocol, "lifespan": "off", "access_log": False}
    with listening(RequestId(front.OneForm(app)), **how) as place, ExitStack() as opened:
        host, port = place.split(":")

        def open_one() -> socket.socket:
            return opened.enter_context(socket.create_connection((host, int(port)), timeout=10))

        yield open_one


def answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(lines[0].split()[1]), headers, json.loads(body)


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_ray_serve_takes_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    from uvicorn.protocols.http import auto

    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")
    monkeypatch.setenv("RAYSCALE_SERVE_TRUSTED_PROXIES", "10.0.0.0/8")
    found = validate_http_proxy_callback_return(call_function_from_import_path(front.CALLBACK))
    assert [middleware.cls for middleware in found] == [front.OneForm, RequestId]
    config = uvicorn.Config(app, log_config=None)
    config.load()
    assert config.http_protocol_class is front.Protocol
    assert config.forwarded_allow_ips == "10.0.0.0/8"


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        GET + b"".join(b"X-%d: y\r\n" % i for i in range(9000)) + b"\r\n",
        b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_large_heads_are_refused(connect: Any, head: bytes) -> None:
    connection = connect()
    connection.sendall(head)
    status, headers, body = answer(connection)
    assert (status, body["error"]["code"]) == (431, "headers_too_large")
    assert "65536 bytes" in body["error"]["message"]
    assert body["error"]["limit"] == {"RAYSCALE_SERVE_MAX_HEAD_BYTES": 65536}
    assert headers["x-request-id"] == body["error"]["request_id"] != ""
    assert closed(connection)


def test_a_head_that_never_ends_takes_no_more_than_its_limit(connect: Any) -> None:
    connection = connect()
    connection.sendall(GET + b"X: ")
    sent = 0
    with suppress(OSError):  # reset, or a broken pipe
        while sent < 32 << 20:
            sent += connection.send(b"y" * 65536)
    assert sent < 8 << 20  # what the kernel's buffers took


def test_slow_heads_end(connect: Any) -> None:
    slow, silent = connect(), connect()
    slow.sendall(GET)
    assert answer(slow)[0] == 408
    assert closed(slow)
    assert closed(silent)  # without an answer: it asked nothing
    fine = connect()
    fine.sendall(GET + b"\r\n")
    status, _, body = answer(fine)
    assert (status, body) == (200, {"size": 0})


def test_slow_heads_end_on_a_connection_in_use(connect: Any) -> None:
    connection = connect()
    connection.sendall(GET + b"\r\n")
    assert answer(connection)[0] == 200
    threading.Event().wait(0.7)  # a connection between two requests may wait for longer
    connection.sendall(GET)
    assert answer(connection)[0] == 408


def test_bodies_have_no_limit_here(connect: Any) -> None:
    connection = connect()
    connection.sendall(b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n")
    threading.Event().wait(0.7)
    connection.sendall(b"x" * 300_000)
    assert answer(connection)[::2] == (422, {"size": 300_000})


def test_what_is_no_http_is_told_in_the_one_form(connect: Any) -> None:
    connection = connect()
    connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
    status, _, body = answer(connection)
    assert (status, body["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/lost", 503, "unavailable"),
        ("/text500", 503, "unavailable"),
        ("/text503", 503, "unavailable"),
        ("/text429", 429, "overloaded"),
        ("/text408", 504, "deadline_exceeded"),
        ("/text404", 404, "not_found"),
    ],
)
def test_answers_of_the_proxy_itself(connect: Any, path: str, status: int, code: str) -> None:
    connection = connect()
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    got, headers, body = answer(connection)
    assert (got, body["error"]["code"]) == (status, code)
    assert (body["error"]["status"], body["error"]["request_id"]) == (
        status,
        headers["x-request-id"],
    )
    assert ("retry-after" in headers) == (status in (429, 503))


def test_every_way_to_start_a_node_sets_up_its_proxies(checkout: Path, tmp_path: Path) -> None:
    ports = dict.fromkeys(("ray", "dashboard", "serve", "agent", "client"), 1)
    image = (checkout / "infra/docker/Dockerfile").read_text()
    stack = ray.service(tmp_path, ports, None).environment
    for name, value in front.ENVIRONMENT.items():
        assert stack[name] == value
        assert f"    {name}={value} \\\n" in image
