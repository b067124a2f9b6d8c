"""Batches over HTTP without a cluster: who may ask for what, and what a service knows after its end."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.serving.batchjobs import Jobs

from rayscale.errors import NotFoundError
from rayscale.serving.api import create_app
from rayscale.serving.batches import Records
from rayscale.serving.keys import Key, hash_key, render_keys
from rayscale.serving.settings import ServeSettings
from rayscale.storage import connect

A, B = "a-key-of-somebody-long-enough", "b-key-of-somebody-long-enough"


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


@pytest.fixture
def make(place: Path, jobs: Jobs) -> Any:
    """Makes a service that allows the folder; as often as it is called it is a service that starts again."""

    def make(**settings: Any) -> Any:
        values = {"batches_uri": str(place / "records"), "batch_prefixes": str(place), **settings}
        return create_app(None, ServeSettings(**values), jobs=jobs)  # type: ignore[arg-type]

    return make


def body(place: Path, **more: Any) -> dict[str, Any]:
    return {"source": f"{place}/in", "target": f"{place}/out", "model": "bicubic", **more}


def test_a_service_that_starts_again_knows_its_batches(
    make: Any, tools: Any, place: Path, jobs: Jobs
) -> None:
    asked = body(place, options={"scale": 3, "ensemble": True}, keys=["a.png", "ü b.png"], limit=7)
    answer = tools.call(make(), "POST", "/v1/batches", json=asked)
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert (made["state"], made["options"]) == ("queued", {"scale": 3, "ensemble": True})
    again = make()
    assert tools.call(again, "GET", f"/v1/batches/{made['id']}").json() == made
    assert tools.call(again, "GET", "/v1/batches").json() == {"batches": [made]}
    (uri,) = jobs.running.values()
    parent, name = uri.rsplit("/", 1)
    asked = Records(connect(parent)).read(name.removesuffix(".json")).asked
    assert (asked.keys, asked.limit) == (("a.png", "ü b.png"), 7)


def test_the_same_idempotency_key_is_the_same_batch(
    make: Any, tools: Any, place: Path, jobs: Jobs
) -> None:
    told = [
        tools.call(make(), "POST", "/v1/batches", json=given, headers={"Idempotency-Key": key})
        for given, key in (
            (body(place), "one"),
            (body(place), "one"),
            (body(place, limit=1), "one"),
            (body(place), "two"),
        )
    ]
    assert [answer.status_code for answer in told] == [202, 202, 409, 202]
    assert told[0].json()["id"] == told[1].json()["id"] != told[3].json()["id"]
    assert len(jobs.running) == 2


def test_progress_rate_and_time_left(make: Any, tools: Any, place: Path) -> None:
    app = make()
    made = tools.call(app, "POST", "/v1/batches", json=body(place)).json()
    records = Records(connect(place / "records"))
    progress = {
        "finished": 4, "failed": 1, "todo": 10, "bytes": 400, "bytes_todo": 1000,
        "megapixels": 8.0, "seconds": 20.0, "windows": 0, "windows_todo": 0,
    }  # fmt: skip
    records.change(made["id"], 1, state="running", progress=progress)
    told = tools.call(app, "GET", f"/v1/batches/{made['id']}").json()
    assert told["counts"] == {"todo": 10, "finished": 4, "failed": 1, "skipped": 0, "left": 0}
    assert (told["megapixels_per_second"], told["seconds_left"]) == (0.4, 30.0)


def test_a_job_that_died_is_a_failure_that_can_be_retried(
    make: Any, tools: Any, place: Path, jobs: Jobs
) -> None:
    app = make()
    made = tools.call(app, "POST", "/v1/batches", json=body(place)).json()
    path = f"/v1/batches/{made['id']}"
    assert tools.call(app, "POST", f"{path}/retry", content=b"").status_code == 409
    jobs.over[next(iter(jobs.running))] = "killed"
    told = tools.call(app, "GET", path).json()
    assert (told["state"], told["message"]) == ("failed", "killed")
    told = tools.call(app, "POST", f"{path}/retry", content=b"")
    assert (told.status_code, told.json()["state"], told.json()["attempt"]) == (202, "queued", 2)
    assert len(jobs.running) == 2


def test_a_cancelled_batch_stays_cancelled(make: Any, tools: Any, place: Path, jobs: Jobs) -> None:
    app = make()
    made = tools.call(app, "POST", "/v1/batches", json=body(place)).json()
    assert tools.call(app, "DELETE", f"/v1/batches/{made['id']}").json()["state"] == "cancelled"
    records = Records(connect(place / "records"))
    assert records.change(made["id"], 1, state="done").state == "cancelled"  # its job, late
    assert jobs.over


def test_without_a_job_server_nothing_is_lost(
    make: Any, tools: Any, place: Path, jobs: Jobs
) -> None:
    app, jobs.gone = make(), True
    headers = {"Idempotency-Key": "one"}
    answer = tools.call(app, "POST", "/v1/batches", json=body(place), headers=headers)
    assert (answer.status_code, answer.headers["x-rayscale-error"]) == (503, "unavailable")
    jobs.gone = False
    told = tools.call(app, "POST", "/v1/batches", json=body(place), headers=headers).json()
    assert told["state"] == "failed"
    path = f"/v1/batches/{told['id']}/retry"
    assert tools.call(app, "POST", path, content=b"").json()["state"] == "queued"


@pytest.mark.slow
@pytest.mark.parametrize(
    "uri",
    [
        "s3://other/in",
        "/etc",
        "file:///etc",
        "http://169.254.169.254/latest",
        "PLACE/../../etc",
        "PLACE/in/..",
        "PLACEX/in",
        "PLACE/in\n",
        "place/in",
        "",
    ],
)
def test_a_batch_stays_in_its_places(make: Any, tools: Any, place: Path, uri: str) -> None:
    given = uri.replace("PLACE", str(place))
    for end in ("source", "target"):
        answer = tools.call(make(), "POST", "/v1/batches", json={**body(place), end: given})
        assert (answer.status_code, answer.headers["x-rayscale-error"]) == (
            403,
            "source_not_allowed",
        )


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"options": {"sharpness": 1}}, 422),
        ({"options": {"scale": "many"}}, 422),
        ({"options": {"uncertainty": True}}, 422),
        ({"options": {"format": "png"}}, 422),
        ({"model": "s3://a/b"}, 403),
        ({"limit": 0}, 422),
        ({"keys": []}, 422),
        ({"color": 1}, 422),
        ({"webhook": "https://evil.example/x"}, 403),
    ],
)
def test_what_is_not_a_batch(make: Any, tools: Any, place: Path, more: Any, status: int) -> None:
    answer = tools.call(make(), "POST", "/v1/batches", json=body(place, **more))
    assert answer.status_code == status, answer.text


def test_keys_have_their_own_batches_places_and_models(make: Any, tools: Any, place: Path) -> None:
    mine = f"{place}/in"
    keys = [Key("a", hash_key(A), models=("bicubic",), prefixes=(mine,)), Key("b", hash_key(B))]
    app = make(keys=render_keys(keys), max_batches=2)
    as_a, as_b = {"X-API-Key": A}, {"X-API-Key": B}

    def submit(headers: Any, **more: Any) -> Any:
        return tools.call(app, "POST", "/v1/batches", json=body(place, **more), headers=headers)

    assert submit(as_a).status_code == 403
    assert submit(as_a, target=f"{mine}/out", model="bilinear").status_code == 403
    made = submit(as_a, target=f"{mine}/out").json()
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/retry")):
        answer = tools.call(app, method, f"/v1/batches/{made['id']}{path}", headers=as_b, **({"content": b""} if path else {}))  # fmt: skip
        assert answer.status_code == 404
    assert tools.call(app, "GET", "/v1/batches", headers=as_b).json() == {"batches": []}
    assert [submit(as_b).status_code for _ in range(3)] == [202, 202, 409]


def test_a_service_without_records_takes_no_batches(make: Any, tools: Any, place: Path) -> None:
    answer = tools.call(make(batches_uri=""), "POST", "/v1/batches", json=body(place))
    assert "RAYSCALE_SERVE_BATCHES_URI" in answer.json()["error"]["message"]
    assert answer.status_code == 404
    for path in ("nope", "20260101000000-000000000000"):
        assert tools.call(make(), "GET", f"/v1/batches/{path}").status_code in (404, 422)


def test_events_until_the_end(make: Any, tools: Any, place: Path) -> None:
    app = make()
    made = tools.call(app, "POST", "/v1/batches", json=body(place)).json()
    records = Records(connect(place / "records"))

    async def watch() -> list[tuple[str, str]]:
        async def work() -> None:
            records.change(made["id"], 1, state="running")
            await asyncio.sleep(1.2)
            records.change(
                made["id"], 1, state="done", summary={"megapixels": 1.0, "failed_count": 0}
            )

        working = asyncio.create_task(work())
        headers = {"Accept": "text/event-stream"}
        async with tools.client(app) as client:
            answer = await client.get(f"/v1/batches/{made['id']}", headers=headers)
        await working
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [event.split("\n") for event in answer.text.split("\n\n") if event]
        return [(kind[7:], json.loads(data[6:])["state"]) for kind, data in events]

    seen = asyncio.run(watch())
    assert seen[-1] == ("end", "done")
    assert ("progress", "running") in seen


def test_the_log_names_the_batch(
    make: Any, tools: Any, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    app = make()
    made = tools.call(app, "POST", "/v1/batches", json=body(place)).json()
    tools.call(app, "GET", f"/v1/batches/{made['id']}")
    lines = [json.loads(r.message) for r in caplog.records if '"event"' in r.message]
    assert [line["batch"] for line in lines] == [made["id"]] * 2


def test_a_record_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no batch x"):
        Records(connect(tmp_path)).read("x")
