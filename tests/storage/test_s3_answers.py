"""What servers may answer, and what rayscale must ask of them: a double that says what the test wants, and keeps what it was asked."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from pathlib import Path

import pytest
from tests.storage.double import Answer, Double, Request, answer_error, answer_listing, configure

from rayscale.errors import StorageError
from rayscale.storage import connect
from rayscale.storage.checksums import ALGORITHMS, Checksum

# Listings


@pytest.mark.parametrize("refuses", [False, True], ids=["ignores version 2", "refuses version 2"])
def test_a_store_that_knows_version_1_of_listings_only_is_listed_whole(
    double: Double, refuses: bool
) -> None:
    keys = [f"{number:03}" for number in range(25)]

    def reply(request: Request) -> Answer:
        if refuses and "list-type" in request.query:
            return answer_error("NotImplemented", "list-type", 501)
        rest = [key for key in keys if key > request.query.get("marker", "")]
        return answer_listing(rest[:10], cut=len(rest) > 10)

    double.reply = reply
    assert [entry.key for entry in connect("s3://bucket").list()] == keys


@pytest.mark.parametrize("extra", ["", "<NextContinuationToken>t</NextContinuationToken>"])
def test_a_store_that_repeats_a_page_is_ananswer_error(double: Double, extra: str) -> None:
    double.reply = lambda _: answer_listing(["a", "b"], cut=True, extra=extra)
    with pytest.raises(StorageError, match="repeats a page"):
        list(connect("s3://bucket").list())


def test_markers_of_folders_are_none_of_the_objects_but_images_with_a_slash_are(
    double: Double,
) -> None:
    folder = '<Contents><Key>folder/</Key><Size>0</Size><ETag>"e"</ETag></Contents>'
    double.reply = lambda _: answer_listing(["/lead.png", "img.png/"], cut=False, extra=folder)
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


# Errors


def test_a_denial_repeats_what_the_server_said(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "User u is not authorized to perform: kms:GenerateDataKey with a-secret"
    double.reply = lambda _: answer_error("AccessDenied", said)
    with pytest.raises(StorageError, match="kms:GenerateDataKey") as caught:
        connect("s3://bucket").write("k", b"")
    assert "RAYSCALE_S3_REQUESTER_PAYS" in str(caught.value)
    assert "a-secret" not in str(caught.value)
    assert len(double.asked) == 1
    configure(monkeypatch, s3_requester_pays="true")
    with pytest.raises(StorageError) as caught:
        connect("s3://bucket").write("k", b"")
    assert "REQUESTER_PAYS" not in str(caught.value)


@pytest.mark.parametrize("code", ["ExpiredToken", "ExpiredTokenException", "RequestExpired"])
def test_an_expired_token_is_named_and_asked_for_once(double: Double, code: str) -> None:
    double.reply = lambda _: answer_error(code, "The provided token has expired.", 400)
    for call in (lambda s: s.read("k"), lambda s: s.write("k", b""), lambda s: list(s.list())):
        with pytest.raises(StorageError, match=r"expired.*AWS_SESSION_TOKEN"):
            call(connect("s3://bucket"))
    assert len(double.asked) == 3


def test_a_body_damaged_on_its_way_up_is_sent_again(double: Double) -> None:
    answers = [answer_error("BadDigest", "", 400), answer_error("IncompleteBody", "", 400)]
    double.reply = lambda _: answers.pop(0) if answers else Answer(200, b"", {"ETag": '"e"'})
    assert connect("s3://bucket").write("k", b"123") == "e"
    assert [request.body for request in double.asked] == [b"123"] * 3
