"""What servers may answer, and what rayscale must ask of them: a double that says what the test wants, and keeps what it was asked."""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from rayscale.errors import ConfigError, StorageError
from rayscale.settings import get_settings
from rayscale.storage import connect
from rayscale.storage.checksums import ALGORITHMS, Checksum

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


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Double]:
    server = Double()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rayscale.storage.s3_client._FIRST_PAUSE_S", 0.01)
    get_settings.cache_clear()
    yield server
    server.shutdown()
    server.server_close()
    get_settings.cache_clear()


def _set(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"RAYSCALE_{name.upper()}", value)
    get_settings.cache_clear()


def _error(code: str, message: str, status: int = 403) -> Answer:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, text.encode(), {"Content-Type": "application/xml"})


# Listings


def _listing(keys: list[str], cut: bool, extra: str = "") -> Answer:
    items = "".join(
        f'<Contents><Key>{key}</Key><Size>1</Size><ETag>"e"</ETag></Contents>' for key in keys
    )
    text = f"<ListBucketResult {_S3}><IsTruncated>{str(cut).lower()}</IsTruncated>{extra}{items}</ListBucketResult>"
    return Answer(200, text.encode())


@pytest.mark.parametrize("refuses", [False, True], ids=["ignores version 2", "refuses version 2"])
def test_a_store_that_knows_version_1_of_listings_only_is_listed_whole(
    double: Double, refuses: bool
) -> None:
    keys = [f"{number:03}" for number in range(25)]

    def reply(request: Request) -> Answer:
        if refuses and "list-type" in request.query:
            return _error("NotImplemented", "list-type", 501)
        rest = [key for key in keys if key > request.query.get("marker", "")]
        return _listing(rest[:10], cut=len(rest) > 10)

    double.reply = reply
    assert [entry.key for entry in connect("s3://bucket").list()] == keys


@pytest.mark.parametrize("extra", ["", "<NextContinuationToken>t</NextContinuationToken>"])
def test_a_store_that_repeats_a_page_is_an_error(double: Double, extra: str) -> None:
    double.reply = lambda _: _listing(["a", "b"], cut=True, extra=extra)
    with pytest.raises(StorageError, match="repeats a page"):
        list(connect("s3://bucket").list())


def test_markers_of_folders_are_none_of_the_objects_but_images_with_a_slash_are(
    double: Double,
) -> None:
    folder = '<Contents><Key>folder/</Key><Size>0</Size><ETag>"e"</ETag></Contents>'
    double.reply = lambda _: _listing(["/lead.png", "img.png/"], cut=False, extra=folder)
    assert [entry.key for entry in connect("s3://bucket").list()] == ["/lead.png", "img.png/"]


# Checksums

_CHECK = b"123456789"  # what the catalogue of CRCs gives their check values for
_DIGESTS = {
    "CRC32": bytes.fromhex("cbf43926"),
    "CRC32C": bytes.fromhex("e3069283"),
    "CRC64NVME": bytes.fromhex("ae8b14860a799888"),
    "SHA1": hashlib.sha1(_CHECK).digest(),
    "SHA256": hashlib.sha256(_CHECK).digest(),
}


@pytest.mark.parametrize("name", _DIGESTS)
def test_each_checksum_is_that_of_its_standard(name: str) -> None:
    promised = {f"Checksum{name}": base64.b64encode(_DIGESTS[name]).decode(), "ETag": '"x-2"'}
    for data, same in ((_CHECK, True), (b"123456780", False)):
        checksum = Checksum(promised)
        checksum.update(data[:4])
        checksum.update(data[4:])
        assert checksum.matches() is same


def test_every_algorithm_is_tested() -> None:
    assert set(_DIGESTS) == set(ALGORITHMS)


def test_the_checksum_of_parts_promises_nothing_of_the_whole() -> None:
    for promised in (
        {"ChecksumCRC32": "AAAAAA==-2", "ETag": '"x-2"'},
        {"ChecksumCRC32": "AAAAAA==", "ChecksumType": "COMPOSITE", "ETag": '"x-2"'},
    ):
        checksum = Checksum(promised)
        checksum.update(_CHECK)
        assert checksum.matches()


@pytest.mark.parametrize("name", _DIGESTS)
def test_a_damaged_download_of_an_encrypted_object_begins_again(
    double: Double, name: str, tmp_path: Path
) -> None:
    """Its ETag says nothing of the content, the checksum does."""
    bodies = [b"923456789", _CHECK]
    header = f"x-amz-checksum-{name.lower()}"
    headers = {
        header: base64.b64encode(_DIGESTS[name]).decode(),
        "ETag": f'"{"0" * 32}"',
        "x-amz-server-side-encryption": "aws:kms",
    }
    double.reply = lambda _: Answer(200, bodies.pop(0), headers)
    assert connect("s3://bucket").read("k") == _CHECK
    assert not bodies
    bodies = [b"92345678x", _CHECK]
    connect("s3://bucket").fetch("k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == _CHECK


def test_a_download_in_two_answers_is_checked_as_a_whole(double: Double) -> None:
    """The first broke off after damaged bytes; the rest arrives well."""
    data = bytes(range(256)) * 8000
    damaged = b"\xff" + data[1:]
    headers = {
        "ETag": f'"{"0" * 32}"',
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-checksum-crc32": base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode(),
    }
    answers = iter([damaged, data, data])

    def reply(request: Request) -> Answer:
        body = next(answers)
        if "range" in request.headers:
            start = int(re.findall(r"\d+", request.headers["range"])[0])
            place = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            rest = {k: v for k, v in headers.items() if "checksum" not in k}
            return Answer(206, body[start:], rest | place)
        if body is damaged:
            return Answer(
                200,
                body[:1_500_000],
                headers | {"Content-Length": str(len(data)), "Connection": "close"},
            )
        return Answer(200, body, headers)

    double.reply = reply
    assert connect("s3://bucket").read("k") == data
    assert ["range" in request.headers for request in double.asked] == [False, True, False]


def test_the_rest_of_another_version_is_never_mixed_in(double: Double) -> None:
    """A server that ignores If-Match."""
    old, new = b"a" * 2_000_000, b"b" * 2_000_000
    answers = iter([old, new, new])

    def reply(request: Request) -> Answer:
        body = next(answers)
        etag = {"ETag": '"old"' if body is old else '"new"'}
        if "range" in request.headers:
            start = int(re.findall(r"\d+", request.headers["range"])[0])
            place = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            return Answer(206, body[start:], etag | place)
        if body is old:
            whole = {"Content-Length": str(len(body)), "Connection": "close"}
            return Answer(200, body[:1_500_000], etag | whole)
        return Answer(200, body, etag)

    double.reply = reply
    assert connect("s3://bucket").read_version("k") == (new, "new")


# Settings reach every request


def _use_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method of a store, an upload in parts that is completed and one that is aborted among them."""
    monkeypatch.setattr("rayscale.storage.s3._MULTIPART_BYTES", 10)
    (tmp_path / "large").write_bytes(b"x" * 15)
    store = connect("s3://bucket/folder")
    list(store.list())
    store.stat("k")
    store.read("k")
    store.read_range("k", 0, 1)
    store.fetch("k", tmp_path / "fetched")
    store.write("k", b"1")
    store.write("k", b"1", if_absent=True)
    store.write("k", b"1", if_match="e")
    store.write_file("k", tmp_path / "large")
    store.forget_unfinished("k")
    store.delete("k")


def _willing(request: Request) -> Answer:
    etag = {"ETag": '"e"', "x-amz-checksum-crc32": "AAAAAA=="}
    if request.method == "GET" and "uploads" in request.query:
        upload = "<Upload><Key>folder/k</Key><UploadId>u</UploadId></Upload>"
        return Answer(
            200, f"<ListMultipartUploadsResult>{upload}</ListMultipartUploadsResult>".encode()
        )
    if request.method == "GET" and "list-type" in request.query:
        return _listing(["folder/k"], cut=False)
    if request.method == "GET":
        ranged = {"Content-Range": "bytes 0-0/1"} if "range" in request.headers else {}
        return Answer(206 if ranged else 200, b"1", {"ETag": '"e"'} | ranged)
    if request.method == "POST" and "uploads" in request.query:
        xml = (
            "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        )
        return Answer(200, xml.encode())
    if request.method == "POST":
        xml = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
        return Answer(200, xml.encode())
    return Answer(200, b"", etag)


def test_the_requester_pays_for_every_request(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.reply = _willing
    _set(monkeypatch, s3_requester_pays="true")
    _use_everything(tmp_path, monkeypatch)
    methods = {(request.method, *sorted(request.query)) for request in double.asked}
    assert len(methods) >= 9
    unpaid = [r for r in double.asked if r.headers.get("x-amz-request-payer") != "requester"]
    assert unpaid == []


@pytest.mark.parametrize("kind", ["AES256", "aws:kms"])
def test_whatever_is_written_is_encrypted_as_the_settings_say(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    double.reply = _willing
    key = "arn:aws:kms:eu-west-1:1:key/k" if kind == "aws:kms" else None
    _set(monkeypatch, s3_encryption=kind, **({"s3_kms_key_id": key} if key else {}))
    _use_everything(tmp_path, monkeypatch)
    begins = [  # an object, or an upload in parts; the parts are encrypted as that
        r
        for r in double.asked
        if (r.method == "PUT" and "partNumber" not in r.query)
        or (r.method == "POST" and "uploads" in r.query)
    ]
    assert len(begins) == 4
    for request in begins:
        assert request.headers["x-amz-server-side-encryption"] == kind
        assert request.headers.get("x-amz-server-side-encryption-aws-kms-key-id") == key
    others = [r for r in double.asked if r not in begins]
    assert not any("x-amz-server-side-encryption" in r.headers for r in others)


def test_nothing_is_asked_for_that_nobody_set(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.reply = _willing
    _use_everything(tmp_path, monkeypatch)
    names = {name for request in double.asked for name in request.headers}
    assert not {"x-amz-request-payer", "x-amz-server-side-encryption"} & names


def test_checksums_of_parts_go_back_with_the_last_request(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS refuses to complete an upload without those that it told."""
    double.reply = _willing
    _use_everything(tmp_path, monkeypatch)
    (last,) = [r for r in double.asked if r.method == "POST" and "uploadId" in r.query]
    assert last.body.count(b"<ChecksumCRC32>AAAAAA==</ChecksumCRC32>") == 2


def test_a_session_token_goes_with_every_request(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.reply = _willing
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    _use_everything(tmp_path, monkeypatch)
    assert {r.headers["x-amz-security-token"] for r in double.asked} == {"a-token"}


@pytest.mark.parametrize(
    ("setting", "profile", "host", "path"),
    [
        ("", "", "s3.localhost", "/bucket/k"),
        ("virtual", "", "bucket.s3.localhost", "/k"),
        ("", "virtual", "bucket.s3.localhost", "/k"),
        ("path", "virtual", "s3.localhost", "/bucket/k"),
    ],
)
def test_where_the_bucket_stands_in_the_address(
    double: Double,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    profile: str,
    host: str,
    path: str,
) -> None:
    port = double.server_port
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://s3.localhost:{port}")
    monkeypatch.setattr("urllib3.util.connection.create_connection", _to_loopback(port))
    (tmp_path / "config").write_text(
        f"[default]\ns3 =\n    addressing_style = {profile}\n" if profile else ""
    )
    _set(monkeypatch, **({"s3_addressing": setting} if setting else {}))
    double.reply = lambda _: Answer(200, b"1", {"ETag": '"e"'})
    assert connect("s3://bucket").read("k") == b"1"
    assert [(r.headers["host"], r.path) for r in double.asked] == [(f"{host}:{port}", path)]


def _to_loopback(port: int) -> Callable[..., object]:
    """Names of buckets are in no DNS here."""
    from socket import create_connection

    return lambda _, *args, **kwargs: create_connection(("127.0.0.1", port))


def test_a_key_without_encryption_by_it_is_refused(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, s3_kms_key_id="k", s3_encryption="AES256")
    with pytest.raises(ConfigError, match="RAYSCALE_S3_ENCRYPTION=aws:kms"):
        connect("s3://bucket").read("k")
    assert double.asked == []


# Errors


def test_a_denial_repeats_what_the_server_said(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "User u is not authorized to perform: kms:GenerateDataKey with a-secret"
    double.reply = lambda _: _error("AccessDenied", said)
    with pytest.raises(StorageError, match="kms:GenerateDataKey") as caught:
        connect("s3://bucket").write("k", b"")
    assert "RAYSCALE_S3_REQUESTER_PAYS" in str(caught.value)
    assert "a-secret" not in str(caught.value)
    assert len(double.asked) == 1
    _set(monkeypatch, s3_requester_pays="true")
    with pytest.raises(StorageError) as caught:
        connect("s3://bucket").write("k", b"")
    assert "REQUESTER_PAYS" not in str(caught.value)


@pytest.mark.parametrize("code", ["ExpiredToken", "ExpiredTokenException", "RequestExpired"])
def test_an_expired_token_is_named_and_asked_for_once(double: Double, code: str) -> None:
    double.reply = lambda _: _error(code, "The provided token has expired.", 400)
    for call in (lambda s: s.read("k"), lambda s: s.write("k", b""), lambda s: list(s.list())):
        with pytest.raises(StorageError, match=r"expired.*AWS_SESSION_TOKEN"):
            call(connect("s3://bucket"))
    assert len(double.asked) == 3


def test_a_body_damaged_on_its_way_up_is_sent_again(double: Double) -> None:
    answers = [_error("BadDigest", "", 400), _error("IncompleteBody", "", 400)]
    double.reply = lambda _: answers.pop(0) if answers else Answer(200, b"", {"ETag": '"e"'})
    assert connect("s3://bucket").write("k", b"123") == "e"
    assert [request.body for request in double.asked] == [b"123"] * 3


# Certificates


@pytest.fixture
def certificate(double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The double speaks TLS with a certificate that it signed itself: this file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public, private = tmp_path / "certificate.pem", tmp_path / "key.pem"
    public.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    double.socket = context.wrap_socket(double.socket, server_side=True)
    monkeypatch.setattr(double, "handle_error", lambda *_: None)  # the client hangs up
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{double.server_port}")
    return public


@pytest.mark.usefixtures("certificate")
def test_a_certificate_signed_by_itself_is_named_at_once(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[int] = []
    monkeypatch.setattr("rayscale.storage.s3_client._pause", lambda n: pauses.append(n) or 0.0)
    with pytest.raises(StorageError, match=r"self.signed certificate.*AWS_CA_BUNDLE"):
        connect("s3://bucket").read("k")
    assert pauses == []


def test_a_certificate_of_the_bundle_is_trusted(
    double: Double, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    double.reply = lambda _: Answer(200, b"1", {"ETag": '"e"'})
    assert connect("s3://bucket").read("k") == b"1"
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate) + ".missing")
    with pytest.raises(ConfigError, match=r"AWS_CA_BUNDLE=.*missing"):
        connect("s3://bucket").read("k")
