"""What rayscale asks of a server: settings, signatures and certificates reach every request."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.storage.double import Answer, Double, Request, answer_listing, configure

from rayscale.errors import ConfigError, StorageError
from rayscale.storage import connect, presigned
from rayscale.storage.s3 import S3Store


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
        return answer_listing(["folder/k"], cut=False)
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
    configure(monkeypatch, s3_requester_pays="true")
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
    configure(monkeypatch, s3_encryption=kind, **({"s3_kms_key_id": key} if key else {}))
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


@pytest.mark.parametrize("kind", ["", "AES256", "aws:kms"])
def test_presigned_addresses_need_no_header(
    double: Double, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Who pays stands in the address, how an object is encrypted in the request that begins it. Version 4, as KMS demands."""
    double.reply = _willing
    key = {"s3_kms_key_id": "k"} if kind == "aws:kms" else {}
    configure(monkeypatch, s3_requester_pays="true", s3_encryption=kind, **key)
    store = connect("s3://bucket/folder")
    assert isinstance(store, S3Store)
    upload = presigned.begin_upload(store, "k")
    part = presigned.part_address(store, "k", upload, 1, 60)
    for method, address in (("PUT", part), ("GET", presigned.object_address(store, "k", 60))):
        httpx.request(method, address, content=b"1" * (method == "PUT"), trust_env=False)
    presigned.complete_upload(store, "k", upload, {1: "e"})
    begun, put, got, ended = double.asked
    assert begun.headers.get("x-amz-server-side-encryption", "") == kind
    for request in (put, got):
        assert request.query["x-amz-request-payer"] == "requester"
        assert request.query["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
        assert request.query["X-Amz-SignedHeaders"] == "host"
    assert ended.headers["x-amz-request-payer"] == "requester"


@pytest.mark.parametrize(
    ("bucket", "place"),
    [
        ("scenes", "https://scenes.s3.eu-west-1.amazonaws.com/k?"),
        ("of.dots", "https://s3.eu-west-1.amazonaws.com/of.dots/k?"),
    ],
)
@pytest.mark.usefixtures("double")
def test_presigned_addresses_of_aws_name_the_region(
    monkeypatch: pytest.MonkeyPatch, bucket: str, place: str
) -> None:
    """The common host sends elsewhere by a redirect, to which the signature does not fit."""
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert presigned.object_address(S3Store(f"s3://{bucket}"), "k", 60).startswith(place)


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
    configure(monkeypatch, **({"s3_addressing": setting} if setting else {}))
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
    configure(monkeypatch, s3_kms_key_id="k", s3_encryption="AES256")
    with pytest.raises(ConfigError, match="RAYSCALE_S3_ENCRYPTION=aws:kms"):
        connect("s3://bucket").read("k")
    assert double.asked == []


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
