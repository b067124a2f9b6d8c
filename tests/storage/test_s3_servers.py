"""On two real servers: listings of many pages, uploads in parts, broken connections; versions and encryption where the server has them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.plugins.proxy import Break, Proxy
from tests.plugins.stack import Bucket

from rayscale.errors import NotFoundError
from rayscale.settings import get_settings
from rayscale.storage import connect
from rayscale.storage.s3_client import get_client

PART = 5 << 20  # the smallest that S3 takes
MANY = 1005  # a page of a listing has 1000


@pytest.fixture(params=["s3", "moto"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    return request.getfixturevalue(request.param)


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Between rayscale and the server; the pauses between attempts are short."""
    monkeypatch.setattr("rayscale.storage.s3_client._FIRST_PAUSE_S", 0.01)
    with Proxy(bucket.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between


def _set(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"RAYSCALE_{name.upper()}", value)
    get_settings.cache_clear()


@pytest.fixture(autouse=True)
def _read_settings_again() -> Iterator[None]:
    yield
    get_settings.cache_clear()


def test_a_listing_of_more_than_a_page(bucket: Bucket) -> None:
    store = connect(f"{bucket.uri}/many")
    keys = [f"{number % 7}/é {number:04}" for number in range(MANY)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.write(key, b"1"), keys))
    assert [entry.key for entry in store.list()] == sorted(keys)
    assert len(list(store.list("3/"))) == len([key for key in keys if key.startswith("3/")])
    for key in keys[::100]:
        store.delete(key)
        keys.remove(key)
    assert [entry.key for entry in store.list()] == sorted(keys)


def test_a_file_in_parts(moto: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayscale.storage.s3._MULTIPART_BYTES", PART)
    source = tmp_path / "large"
    source.write_bytes(random.Random(0).randbytes(PART + 1000))
    store = connect(moto.uri)
    first = store.write_file("large", source, if_absent=True, mark="mine")
    assert first
    assert store.write_file("large", source, if_absent=True) is None
    assert store.stat("large").mark == "mine"
    assert store.fetch("large", tmp_path / "copy") == first
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert store.read_range("large", PART - 2, 4) == source.read_bytes()[PART - 2 : PART + 2]
    assert _uploads(moto) == []


def _uploads(bucket: Bucket) -> list[str]:
    """Keys of the uploads that were begun and not ended."""
    answer = get_client().list_multipart_uploads(Bucket=bucket.name)
    return [upload["Key"] for upload in answer.get("Uploads", ())]


# Connections that break


@pytest.mark.parametrize("condition", [{}, {"if_absent": True}], ids=["always", "if absent"])
@pytest.mark.parametrize(
    "fault",
    [Break("PUT", "up", 300_000), Break("PUT", "up", 100), Break("PUT", "down", 0)],
    ids=str,
)
def test_a_write_whose_connection_breaks_is_done_again(
    bucket: Bucket, proxy: Proxy, fault: Break, condition: dict[str, bool]
) -> None:
    """In the body, in the head, and when all was written and the answer is lost: the object of the retry is our own."""
    data = random.Random(1).randbytes(1_000_000)
    proxy.breaks = [fault, fault]
    store = connect(bucket.uri)
    etag = store.write("k", data, mark="mine", **condition)
    assert proxy.broken == [fault, fault]
    assert etag
    assert store.read_version("k") == (data, etag)
    assert store.stat("k").mark == "mine"
    assert len(list(store.list())) == 1


def test_of_two_writers_the_second_loses_behind_a_lost_answer_too(
    bucket: Bucket, proxy: Proxy
) -> None:
    store = connect(bucket.uri)
    store.write("k", b"first")
    proxy.breaks = [Break("PUT", "down", 0)]
    assert store.write("k", b"second", if_absent=True) is None
    assert store.read("k") == b"first"


def test_an_upload_in_parts_survives_broken_connections(
    bucket: Bucket, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayscale.storage.s3._MULTIPART_BYTES", PART)
    source = tmp_path / "large"
    source.write_bytes(random.Random(2).randbytes(2 * PART + 1000))
    proxy.breaks = [
        Break("partNumber=1", "up", 2_000_000),
        Break("partNumber=1", "down", 0),
        Break("partNumber=2", "up", 0),
        Break("POST .*uploadId", "up", 100),
        Break("POST .*uploadId", "down", 0),  # the last request: its answer is lost
    ]
    store = connect(bucket.uri)
    etag = store.write_file("large", source, if_absent=True)
    assert proxy.breaks == []
    assert len(proxy.broken) == 5
    assert etag
    assert store.fetch("large", tmp_path / "copy") == etag
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert _uploads(bucket) == []


def test_a_download_goes_on_after_each_reset(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    data = random.Random(3).randbytes(3_000_000)
    store = connect(bucket.uri)
    etag = store.write("k", data)
    proxy.breaks = [Break("GET", "down", after) for after in (100, 1_000_000, 1_500_000)]
    assert store.fetch("k", tmp_path / "k") == etag
    assert (tmp_path / "k").read_bytes() == data
    assert len(proxy.broken) == 3


# Versions and encryption


@pytest.fixture
def versioned(moto: Bucket) -> Bucket:
    get_client().put_bucket_versioning(
        Bucket=moto.name, VersioningConfiguration={"Status": "Enabled"}
    )
    return moto


def test_of_a_versioned_bucket_the_newest_counts(versioned: Bucket) -> None:
    store = connect(versioned.uri)
    first = store.write("k", b"one")
    second = store.write("k", b"two", if_match=first)
    assert second
    assert store.write("k", b"three", if_match=first) is None
    assert store.read_version("k") == (b"two", second)
    assert [entry.etag for entry in store.list()] == [second]
    store.delete("k")
    store.delete("k")
    assert not store.exists("k")
    assert list(store.list()) == []
    with pytest.raises(NotFoundError, match="k"):
        store.read("k")
    assert store.write("k", b"four", if_absent=True)  # the key is free
    assert store.read("k") == b"four"
    kept = get_client().list_object_versions(Bucket=versioned.name)
    assert len(kept["Versions"]) == 3  # nothing was destroyed


def test_an_object_replaced_while_it_is_read_is_not_mixed(
    versioned: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks in the middle, and then there is another version."""
    old, new = (random.Random(seed).randbytes(3_000_000) for seed in (4, 5))
    store = connect(versioned.uri)
    store.write("k", old)

    def replace_and_go_on(_: int) -> float:
        monkeypatch.setenv("AWS_ENDPOINT_URL", versioned.endpoint)
        store.write("k", new)
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        return 0.0

    with Proxy(versioned.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        monkeypatch.setattr("rayscale.storage.s3_client._pause", replace_and_go_on)
        between.breaks = [Break("GET", "down", 1_500_000)]
        data, etag = store.read_version("k")
        assert len(between.broken) == 1
        assert data == new
        assert store.stat("k").etag == etag


@pytest.mark.parametrize("kind", ["AES256", "aws:kms"])
def test_what_is_written_is_encrypted(
    moto: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("rayscale.storage.s3._MULTIPART_BYTES", PART)
    key = "arn:aws:kms:us-east-1:123456789012:key/1"
    _set(monkeypatch, s3_encryption=kind, **({"s3_kms_key_id": key} if kind == "aws:kms" else {}))
    (tmp_path / "large").write_bytes(random.Random(6).randbytes(PART + 10))
    store = connect(moto.uri)
    store.write("small", b"1")
    store.write("new", b"1", if_absent=True)
    store.write_file("large", tmp_path / "large", if_absent=True)
    for name in ("small", "new", "large"):
        found = get_client().head_object(Bucket=moto.name, Key=name)
        assert found["ServerSideEncryption"] == kind
        assert found.get("SSEKMSKeyId") == (key if kind == "aws:kms" else None)
    store.fetch("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "large").read_bytes()
