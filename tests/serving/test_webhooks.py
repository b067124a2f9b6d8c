"""The end of a batch: who finds it, how it is counted, and that its webhook learns of it once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serving.batchjobs import SECRET, Host, Jobs, host_of_webhooks
from tests.serving.deployed import until

from rayscale.serving import webhook
from rayscale.serving.api import create_app
from rayscale.serving.batches import Batches, Records
from rayscale.serving.errors import SourceNotAllowedError
from rayscale.serving.settings import ServeSettings
from rayscale.storage import connect


@pytest.fixture
def host() -> Iterator[Host]:
    with host_of_webhooks() as host:
        yield host


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


class NoReplicas:
    """A backend without replicas."""

    def name(self) -> str:
        return "here"

    async def metrics(self) -> list[Any]:
        return []


@pytest.fixture
def make(tmp_path: Path, jobs: Jobs) -> Any:
    """Makes an ingress; all of them share the records."""

    def make() -> Any:
        settings = ServeSettings(
            batches_uri=str(tmp_path / "records"),
            batch_prefixes=str(tmp_path),
            webhook_hosts="127.0.0.1",
            webhook_secret=SECRET,
            max_batches=10,
        )
        return create_app(NoReplicas(), settings, jobs=jobs)  # type: ignore[arg-type]

    return make


def batches_of(app: Any) -> Batches:
    known: Batches = app.state.service.batches
    return known


def submit(app: Any, tools: Any, place: Path, **more: Any) -> str:
    asked = {"source": f"{place}/in", "target": f"{place}/out", "model": "bicubic", **more}
    return str(tools.call(app, "POST", "/v1/batches", json=asked).json()["id"])


def start(app: Any, batch: str) -> str:
    """Its job begins; the id of that."""
    return str(batches_of(app).records.change(batch, 1, state="running").job)


def test_a_batch_whose_job_died_is_told_once_though_nobody_asks(
    make: Any, tools: Any, tmp_path: Path, jobs: Jobs, host: Host
) -> None:
    one, two = make(), make()
    batch = submit(one, tools, tmp_path, webhook=host.url)
    job = start(one, batch)
    batches_of(one).watch()
    assert not host.got
    jobs.over[job] = "killed"
    for app in (one, two, one):
        batches_of(app).watch()
    until(lambda: batches_of(one).records.read(batch).tell_at == 0)
    assert host.told(batch) == ["failed"]
    assert tools.call(two, "GET", f"/v1/batches/{batch}").json()["message"] == "killed"


def test_a_job_that_the_cluster_does_not_know_yet_is_not_dead(
    make: Any, tools: Any, tmp_path: Path, jobs: Jobs
) -> None:
    app = make()
    batch = submit(app, tools, tmp_path)
    jobs.running.clear()  # asked for, and not listed yet
    batches_of(app).watch()
    assert batches_of(app).records.read(batch).state == "queued"


def test_a_cancelled_batch_is_told(make: Any, tools: Any, tmp_path: Path, host: Host) -> None:
    app = make()
    batch = submit(app, tools, tmp_path, webhook=host.url)
    tools.call(app, "DELETE", f"/v1/batches/{batch}")
    until(lambda: host.told(batch) == ["cancelled"])


def test_what_a_host_missed_is_told_again_by_one_ingress(
    make: Any, tools: Any, tmp_path: Path, jobs: Jobs, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "_TRIES", 1)
    monkeypatch.setattr(webhook.time, "sleep", lambda _: None)
    one, two = make(), make()
    batch = submit(one, tools, tmp_path, webhook=host.url)
    jobs.over[start(one, batch)] = "killed"
    host.status = 500
    batches_of(one).watch()
    until(lambda: host.asked == 1)
    records: Records = batches_of(one).records
    assert records.read(batch).tell_at > time.time()  # it has its time; nobody else tells
    host.status = 204
    batches_of(two).watch()
    assert not host.got
    records.put(batch, tell_at=1.0)  # that time is over: also of an ingress that was killed
    for app in (one, two):
        batches_of(app).watch()
    until(lambda: records.read(batch).tell_at == 0)
    assert host.told(batch) == ["failed"]


def test_batches_are_counted_by_state(make: Any, tools: Any, tmp_path: Path, jobs: Jobs) -> None:
    one, two = make(), make()
    first, second, third = (submit(one, tools, tmp_path, limit=n) for n in (1, 2, 3))
    start(one, first)
    tools.call(two, "DELETE", f"/v1/batches/{second}")
    for app in (one, two, one):
        text = tools.call(app, "GET", "/metrics").text
        counts = {
            sample.labels["state"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "rayscale_batches"
        }
        assert counts == {
            "queued": 1, "running": 1, "done": 0, "partial": 0, "failed": 0, "cancelled": 1,
        }  # fmt: skip
    assert third


def test_a_webhook_is_signed_and_goes_to_named_hosts_only(host: Host) -> None:
    settings = ServeSettings(webhook_hosts="127.0.0.1, hooks.example", webhook_secret=SECRET)
    told = {"id": "1", "state": "done", "target": "out"}
    assert webhook.send(host.url, told, settings)
    assert host.got == [{"event": "batch.ended", **told}]
    for bad in (
        "http://hooks.example/x",
        "https://hooks.example.evil/x",
        "https://user:pw@hooks.example/x",
        "https://169.254.169.254/x",
        "ftp://127.0.0.1/x",
        "https://[x",
    ):
        with pytest.raises(SourceNotAllowedError):
            webhook.check_webhook(bad, settings)
    webhook.check_webhook("https://hooks.example/x", settings)
    with pytest.raises(SourceNotAllowedError, match="SECRET"):
        webhook.check_webhook(host.url, ServeSettings(webhook_hosts="127.0.0.1"))


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    store = connect(tmp_path)
    old = (
        b'{"format":1,"id":"x","owner":"anyone","asked":{"source":"a","target":"b","model":"m","options":{},'
        b'"keys":null,"limit":null,"overwrite":false,"webhook":null},"state":"done","attempt":1,"created":1.0,'
        b'"updated":1.0,"progress":{},"summary":{},"message":""}'
    )
    store.write("x.json", old)
    assert Records(store).read("x").tell_at == 0
