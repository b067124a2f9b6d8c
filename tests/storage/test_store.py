"""What every store promises, alike on a local folder, on the S3 server of the stack and on another one."""

from __future__ import annotations

import hashlib
import pickle
import random
import threading
from pathlib import Path

import pytest

from rayscale.errors import ConfigError, NotFoundError
from rayscale.storage import Entry, Store, connect, split

KEYS = [
    "plain.png",
    "deep/er/and/deeper.png",
    "a space.png",
    "plus+plus.png",
    "100%.png",
    "per%20cent.png",
    "hash#tag?query=1&x.png",
    "ünï/çødé/図.png",
    "dots..in...name",
    "quotes'\"<>|*.png",
    "x" * 200 + "/" + "y" * 200 + "/" + "é" * 100,
]


@pytest.fixture(params=["local", "s3", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return connect(tmp_path / "a folder")
    return connect(f"{request.getfixturevalue(request.param).uri}/a prefix")


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert list(store.list()) == []
    assert not store.exists("a")


@pytest.mark.parametrize("key", KEYS)
def test_any_key_round_trips(store: Store, key: str) -> None:
    data = key.encode()
    etag = store.write(key, data)
    assert store.read(key) == data
    assert store.read_version(key) == (data, etag)
    assert list(store.list()) == [Entry(key, len(data), str(etag))]
    assert store.stat(key) == Entry(key, len(data), str(etag))
    store.delete(key)
    assert not store.exists(key)


def test_listing_is_sorted_as_text_and_filtered_by_prefix(store: Store) -> None:
    keys = ["b", "a/z", "a-b", "a/é", "a/a/a", "ab"]
    for key in keys:
        store.write(key, b"x")
    assert [entry.key for entry in store.list()] == sorted(keys)
    assert [entry.key for entry in store.list("a/")] == ["a/a/a", "a/z", "a/é"]
    assert [entry.key for entry in store.list("a")] == ["a-b", "a/a/a", "a/z", "a/é", "ab"]
    assert list(store.list("nothing/here")) == []


def test_a_child_sees_its_part_only(store: Store) -> None:
    store.write("images/a.png", b"1")
    store.write("imagesque.png", b"2")
    child = store.child("images")
    assert [entry.key for entry in child.list()] == ["a.png"]
    assert child.read("a.png") == b"1"
    child.write("b.png", b"3")
    assert store.read("images/b.png") == b"3"
    assert child.uri == f"{store.uri}/images"
    assert connect(child.uri) == child
    assert store.child("") == store


def test_ranges(store: Store) -> None:
    store.write("k", bytes(range(100)))
    assert store.read_range("k", 0, 4) == bytes([0, 1, 2, 3])
    assert store.read_range("k", 98, 10) == bytes([98, 99])
    assert store.read_range("k", 100, 10) == b""
    assert store.read_range("k", 500, 10) == b""
    assert store.read_range("k", 5, 0) == b""
    store.write("empty", b"")
    assert store.read("empty") == b""
    assert store.read_range("empty", 0, 10) == b""


def test_files_go_up_and_come_down(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random.Random(0).randbytes(300_000))
    etag = store.write_file("f", source)
    assert store.stat("f") == Entry("f", 300_000, etag)
    assert store.fetch("f", tmp_path / "new folder" / "copy") == etag
    assert (tmp_path / "new folder" / "copy").read_bytes() == source.read_bytes()
    with pytest.raises(NotFoundError):
        store.fetch("missing", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_writing_again_replaces_and_changes_the_version(store: Store) -> None:
    first = store.write("k", b"one")
    second = store.write("k", b"two")
    assert store.read("k") == b"two"
    assert first != second
    assert store.stat("k").etag == second


def test_of_racing_creators_one_wins(store: Store) -> None:
    barrier = threading.Barrier(8)
    results: dict[int, str | None] = {}

    def create(number: int) -> None:
        barrier.wait()
        results[number] = store.write("claim", f"writer {number}".encode(), if_absent=True)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for number, etag in results.items() if etag is not None]
    assert len(results) == 8
    assert len(winners) == 1
    assert store.read("claim") == f"writer {winners[0]}".encode()
    assert store.stat("claim").etag == results[winners[0]]
    assert store.write("claim", b"late", if_absent=True) is None


def test_only_the_version_that_was_named_is_replaced(store: Store) -> None:
    first = store.write("a", b"1")
    assert first
    second = store.write("a", b"two", if_match=first)
    assert second
    assert store.read("a") == b"two"
    assert store.write("a", b"3", if_match=first) is None
    store.delete("a")
    assert store.write("a", b"3", if_match=second) is None
    assert list(store.list()) == []


def test_a_mark_stays_with_the_object(store: Store) -> None:
    store.write("a", b"1", mark='{"x":"1 2"}')
    assert store.stat("a").mark == '{"x":"1 2"}'
    store.write("b", b"1", if_absent=True, mark="of b")
    assert store.stat("b").mark == "of b"
    store.write("b", b"2", if_match=store.stat("b").etag, mark="again")
    assert store.stat("b").mark == "again"
    store.write("a", b"2")
    assert store.stat("a").mark == ""


def test_missing_objects_are_named(store: Store, tmp_path: Path) -> None:
    for call in (
        lambda: store.read("no/such"),
        lambda: store.read_range("no/such", 0, 1),
        lambda: store.stat("no/such"),
        lambda: store.fetch("no/such", tmp_path / "x"),
    ):
        with pytest.raises(NotFoundError, match="no/such"):
            call()
    store.delete("no/such")
    store.write("folder/a", b"")
    with pytest.raises(NotFoundError):
        store.read("folder")
    assert not store.exists("folder")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a/../../up", "a/..", "./a", "nul\0"])
def test_keys_cannot_leave_the_root(store: Store, key: str) -> None:
    for call in (store.read, store.stat, store.exists, store.delete):
        with pytest.raises(ConfigError, match="is not a key"):
            call(key)
    with pytest.raises(ConfigError):
        store.write(key, b"")


def test_a_store_travels_by_pickle(store: Store) -> None:
    store.write("k", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read("k") == b"1"
    assert len(pickle.dumps(store)) < 500


def test_reads_are_never_of_a_half_written_object(store: Store) -> None:
    """A reader beside a writer sees one version whole, or the other."""
    versions = [random.Random(n).randbytes(500_000) for n in range(2)]
    digests = {hashlib.sha256(version).digest() for version in versions}
    store.write("k", versions[0])
    done = threading.Event()

    def write() -> None:
        for turn in range(10):
            store.write("k", versions[turn % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(hashlib.sha256(store.read("k")).digest())
    writer.join()
    assert seen
    assert seen <= digests


def test_split_cuts_off_the_last_part() -> None:
    assert split("s3://bucket/a.png") == ("s3://bucket", "a.png")
    assert split("s3://bucket/x y/ü#%20.png") == ("s3://bucket/x y", "ü#%20.png")
    assert split(Path("/data/images/a.png")) == ("/data/images", "a.png")
    assert split("a.png") == (".", "a.png")


@pytest.mark.parametrize(
    "uri", ["s3://", "s3://bucket", "s3://bucket/", "s3://bucket/a/", "", "/", "http://host/a"]
)
def test_split_refuses_what_names_no_object(uri: str) -> None:
    with pytest.raises(ConfigError):
        split(uri)


@pytest.mark.parametrize(
    "uri", ["", "s3://", "http://169.254.169.254/latest", "file:///etc", "gs://bucket/a"]
)
def test_connect_refuses_other_schemes(uri: str) -> None:
    with pytest.raises(ConfigError):
        connect(uri)
