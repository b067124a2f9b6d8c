"""What is particular to S3: keys and denial, servers that fail in the middle, large files, restarts."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest
from botocore.exceptions import EndpointConnectionError

from rayscale import local
from rayscale.errors import ConfigError, NotFoundError, StorageError
from rayscale.settings import get_settings
from rayscale.storage import connect
from rayscale.storage.s3 import _MULTIPART_BYTES
from rayscale.storage.s3_client import _retry, get_client


@pytest.fixture
def _one_attempt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAYSCALE_STORAGE_ATTEMPTS", "1")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_a_wrong_key_is_denied_and_no_secret_shown(s3, monkeypatch) -> None:
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    wrong = "0" * len(secret)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
    store = connect(s3.uri)
    for call in (
        lambda: store.read("k"),
        lambda: store.write("k", b""),
        lambda: list(store.list()),
    ):
        with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY") as caught:
            call()
        text = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
        assert secret not in text
        assert wrong not in text
        assert s3.endpoint in str(caught.value)


def test_no_keys_at_all(s3, monkeypatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID"):
        connect(s3.uri).read("k")


def test_a_missing_bucket_is_named(s3) -> None:
    store = connect("s3://no-such-bucket/x")
    for call in (
        lambda: list(store.list()),
        lambda: store.read("k"),
        lambda: store.write("k", b""),
    ):
        with pytest.raises(NotFoundError, match="no-such-bucket"):
            call()


@pytest.mark.usefixtures("_one_attempt")
def test_an_unreachable_server_names_the_variable(s3, monkeypatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
            connect(s3.uri).read("k")


def test_a_key_beyond_the_limit_of_s3_is_refused(s3) -> None:
    with pytest.raises(ConfigError, match="S3 allows 1024"):
        connect(s3.uri).write("é" * 513, b"")


@pytest.mark.usefixtures("_one_attempt")
def test_bytes_damaged_on_the_way_are_refused(s3, monkeypatch) -> None:
    store = connect(s3.uri)
    sent = hashlib.md5(b"sent", usedforsecurity=False).digest()
    monkeypatch.setattr("rayscale.storage.s3._md5", lambda _: base64.b64encode(sent).decode())
    for conditions in ({}, {"if_absent": True}):
        with pytest.raises(StorageError, match="BadDigest"):
            store.write("a", b"arrived", **conditions)
    assert not store.exists("a")


def test_listings_of_several_pages(s3) -> None:
    store = connect(s3.uri)
    keys = [f"{n:04} é+%" for n in range(25)]
    for key in keys:
        store.write(key, b"")
    pages = []

    def limit(params: dict[str, object], **_: object) -> None:
        pages.append(params)
        params["MaxKeys"] = 10  # instead of a thousand

    events, name = get_client().meta.events, "provide-client-params.s3.ListObjectsV2"
    events.register(name, limit)
    try:
        assert [entry.key for entry in store.list()] == keys
    finally:
        events.unregister(name, limit)
    assert len(pages) == 3


def test_a_large_file_goes_in_parts(s3, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(random.Random(0).randbytes(1 << 20) * ((_MULTIPART_BYTES >> 20) + 6))
    store = connect(s3.uri)
    etag = store.write_file("large", source)
    assert etag.endswith("-2")
    assert store.stat("large").size == source.stat().st_size
    store.fetch("large", tmp_path / "copy")
    digests = [hashlib.sha256((tmp_path / n).read_bytes()).digest() for n in ("large", "copy")]
    assert digests[0] == digests[1]
    assert (
        store.read_range("large", _MULTIPART_BYTES - 2, 4)
        == source.read_bytes()[_MULTIPART_BYTES - 2 : _MULTIPART_BYTES + 2]
    )


def test_a_large_file_keeps_to_its_conditions_to_the_last(s3, tmp_path: Path, monkeypatch) -> None:
    """What another wrote while the parts went up stays, and the parts go."""
    monkeypatch.setattr("rayscale.storage.s3._MULTIPART_BYTES", 5 << 20)
    source = tmp_path / "large"
    source.write_bytes(random.Random(0).randbytes(6 << 20))
    store = connect(s3.uri)
    first = store.write_file("large", source, if_absent=True, mark="mine")
    assert first
    assert store.stat("large").mark == "mine"
    assert store.write_file("large", source, if_absent=True) is None
    source.write_bytes(source.read_bytes()[::-1])
    second = store.write_file("large", source, if_match=first)
    assert second not in (None, first)
    assert store.read("large") == source.read_bytes()
    assert store.write_file("large", source, if_match=first) is None

    monkeypatch.setattr(type(store), "_etag", lambda *_: "")  # the look before came too early
    assert store.write_file("large", source, if_absent=True) is None
    assert store.stat("large").etag == second
    assert _uploads(s3.uri) == []


@pytest.mark.usefixtures("_one_attempt")
def test_parts_damaged_on_the_way_are_refused(s3, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("rayscale.storage.s3._MULTIPART_BYTES", 5 << 20)
    source = tmp_path / "large"
    source.write_bytes(bytes(6 << 20))
    sent = hashlib.md5(b"sent", usedforsecurity=False).digest()
    monkeypatch.setattr("rayscale.storage.s3._md5", lambda _: base64.b64encode(sent).decode())
    with pytest.raises(StorageError, match="BadDigest"):
        connect(s3.uri).write_file("large", source)
    assert not connect(s3.uri).exists("large")
    assert _uploads(s3.uri) == []


def _uploads(uri: str) -> list[str]:
    """Keys of the uploads that were begun and not ended."""
    bucket, _, prefix = f"{uri}/".removeprefix("s3://").partition("/")
    answer = get_client().list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    return [upload["Key"] for upload in answer.get("Uploads", ())]


def test_parts_that_a_killed_writer_sent_are_deleted(s3, monkeypatch) -> None:
    """Those of this very key; to be denied it is no error."""
    client = get_client()
    bucket, _, prefix = f"{s3.uri}/".removeprefix("s3://").partition("/")
    for key in ("large", "large", "larger"):
        place = {"Bucket": bucket, "Key": prefix + key}
        upload = client.create_multipart_upload(**place)["UploadId"]
        client.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"half")
    connect(s3.uri).forget_unfinished("large")
    connect(s3.uri).forget_unfinished("large")
    left = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)["Uploads"]
    assert [upload["Key"] for upload in left] == [prefix + "larger"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    connect(s3.uri).forget_unfinished("larger")


def test_attempts_outlast_a_server_that_is_gone_for_a_minute(monkeypatch) -> None:
    most = get_settings().storage_attempts
    gone = EndpointConnectionError(endpoint_url="http://127.0.0.1:1")
    busy = (Mock(status_code=503), {"Error": {"Code": "SlowDown"}})
    for luck in (min, max):
        monkeypatch.setattr("rayscale.storage.s3_client.random.uniform", luck)
        for answer in ({"caught_exception": gone}, {"response": busy}):
            pauses = [_retry(attempt, **answer) for attempt in range(1, most + 1)]
            assert pauses[-1] is None
            assert 60 < sum(pauses[:-1]) < 120
            assert max(pauses[:-1]) <= 20


@pytest.mark.parametrize(("status", "code"), [(404, "NoSuchKey"), (403, "AccessDenied"), (412, "")])
def test_an_answer_is_no_reason_to_ask_again(status: int, code: str) -> None:
    assert _retry(1, (Mock(status_code=status), {"Error": {"Code": code}})) is None
    assert _retry(1, caught_exception=ValueError()) is None


@pytest.mark.slow
def test_data_and_keys_survive_a_killed_server(tmp_path: Path, monkeypatch) -> None:
    first = local.up(tmp_path, services=("s3",), fixed_ports=False)
    try:
        for name, value in local.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        store = connect("s3://rayscale/kept")
        etag = store.write("k", b"value")
        os.kill(local.status(tmp_path)[0].pid or 0, signal.SIGKILL)

        # The server comes back while a client is already asking: its retries must bridge the gap.
        code = f"from rayscale import local; local.up({str(tmp_path)!r}, services=('s3',), fixed_ports=False)"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        again = subprocess.Popen([sys.executable, "-c", code], env=environment)
        assert store.read("k") == b"value"
        assert again.wait(60) == 0
        assert store.stat("k").etag == etag
        assert local.up(tmp_path, services=("s3",)) == first
    finally:
        get_settings.cache_clear()
        local.down(tmp_path)


class _Script(ThreadingHTTPServer):
    """A server that answers GET of an object by a list of tricks, then properly."""

    def __init__(self, data: bytes, tricks: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data = data
        self.tricks = tricks
        self.ranges: list[str | None] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Script
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers["Range"]
        server.ranges.append(asked)
        trick = server.tricks.pop(0) if server.tricks else ""
        if trick == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if trick == "changed":
            server.data = server.data[::-1]
        etag = f'"{hashlib.md5(server.data).hexdigest()}"'
        if self.headers["If-Match"] not in (None, etag):
            self.send_response(412)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, end = 0, len(server.data)
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), int(last) + 1 if last else end
        body = server.data[start:end]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(server.data)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", etag)
        self.end_headers()
        if trick == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        if trick == "cut":
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tricks",
    [["503", "503"], ["cut"], ["cut", "cut"], ["flip"], ["cut", "changed"], ["cut", "503", "flip"]],
    ids="-".join,
)
def test_bodies_arrive_whole_from_a_bad_server(
    tricks: list[str], monkeypatch, tmp_path: Path
) -> None:
    data = random.Random(1).randbytes(3_000_000)
    server = _Script(data, list(tricks))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        store = connect("s3://bucket")
        expected = data[::-1] if "changed" in tricks else data
        store.fetch("k", tmp_path / "k")
        assert (tmp_path / "k").read_bytes() == expected
        assert not server.tricks
        if tricks[0] == "cut":
            assert server.ranges[1].startswith("bytes=")  # it goes on, it does not begin again
        server.tricks = [trick for trick in tricks if trick in {"503", "cut"}]
        assert store.read_range("k", 1000, 50_000) == expected[1000:51_000]
        assert not server.tricks
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.usefixtures("_one_attempt")
@pytest.mark.parametrize("trick", ["cut", "flip"])
def test_a_body_that_never_arrives_whole_leaves_no_file(
    trick: str, monkeypatch, tmp_path: Path
) -> None:
    server = _Script(b"x" * 100_000, [trick])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        with pytest.raises(StorageError, match="could not be read whole"):
            connect("s3://bucket").fetch("k", tmp_path / "k")
        assert list(tmp_path.iterdir()) == []
    finally:
        server.shutdown()
        server.server_close()
