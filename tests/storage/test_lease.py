"""One process per place, on a real S3 server and in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rayscale.storage import Store, connect
from rayscale.storage.lease import BusyError, Lease

LEASE = "lease/"
GONE = json.dumps(
    {"host": "elsewhere", "pid": 1, "space": "", "beats": 7, "state": "held"}
).encode()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return connect(f"{request.getfixturevalue('s3').uri}/out")
    return connect(tmp_path / "out")


def short(store: Store) -> Lease:
    return Lease(store, LEASE, beat_s=0.1, silence_s=1.0)


def test_the_second_is_refused_and_the_next_is_not(store: Store) -> None:
    with short(store) as first:
        told = rf"since {datetime.now(UTC):%Y-%m-%d} \d\d:\d\d:\d\d UTC \(host .+, process {os.getpid()}\)"
        with pytest.raises(BusyError, match=told), short(store):
            pass
        assert not first.lost
    with short(store) as next_one:
        assert next_one.generation > first.generation
    assert len(list(store.list("lease/"))) == 1


def test_who_listed_before_others_came_and_went_is_refused(tmp_path: Path) -> None:
    """The generation it takes is free again, but another holds the next."""
    store = connect(tmp_path)
    late = short(store)
    listing = late._newest
    with short(store):
        pass

    def newest() -> int:
        late._newest = listing  # type: ignore[method-assign]  # from now on it sees what is there
        stack.enter_context(short(store))
        return 0

    late._newest = newest  # type: ignore[method-assign]
    with ExitStack() as stack:
        with pytest.raises(BusyError), late:
            pass
        (held,) = store.list("lease/")
        assert held.key.endswith("00000002.json")


def test_of_many_at_once_one_wins(store: Store) -> None:
    held, release, results = threading.Event(), threading.Event(), []

    def contend() -> None:
        try:
            with Lease(store, LEASE, beat_s=0.2, silence_s=20.0):
                results.append("won")
                held.set()
                release.wait(30)
        except BusyError:
            results.append("refused")

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert held.wait(20)
    for _ in range(300):
        if len(results) == 6:
            break
        threading.Event().wait(0.1)
    release.set()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused"] * 5 + ["won"]


def test_a_process_of_another_machine_with_the_same_name_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = connect(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr("rayscale.machine.identity", lambda: "the other boot")
    lease = short(store)
    lease._owner["pid"] = ended.pid
    with lease:
        monkeypatch.undo()
        with pytest.raises(BusyError), short(store):
            pass


def test_a_silent_holder_is_succeeded_and_notices(store: Store) -> None:
    store.write("lease/00000004.json", GONE)
    with short(store) as lease:
        assert lease.generation == 5
        store.write("lease/00000006.json", GONE)  # as if this process had slept
        for _ in range(50):
            threading.Event().wait(0.1)
            if lease.lost:
                break
        assert lease.lost
    assert [e.key for e in store.list("lease/")][-1].endswith("6.json")
    assert store.read("lease/00000006.json") == GONE


def test_a_dead_process_of_this_machine_needs_no_waiting(tmp_path: Path) -> None:
    code = (
        "import os, sys; from rayscale.storage.lease import Lease; from rayscale.storage import connect;"
        "Lease(connect(sys.argv[1]), sys.argv[2]).__enter__(); os.kill(os.getpid(), 9)"
    )
    place = Path(sys.modules["rayscale"].__file__ or "").parents[1]
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), LEASE],
        check=False,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    with Lease(connect(tmp_path), LEASE, beat_s=0.1, silence_s=60.0) as lease:
        assert lease.generation == 2
