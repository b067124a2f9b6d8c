"""Batches and quotas of the service as it is deployed: real Ray, real jobs, processes that are killed."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from tests.serving.batchjobs import Host, host_of_webhooks
from tests.serving.deployed import COUNTED, METERED, client_of, direct, replicas, until

from rayscale.imaging import read_image
from rayscale.serving.batches import Records
from rayscale.storage import connect

PLACES = {"source": "s3://batches/data/one", "target": "s3://batches/data/larger"}


@pytest.fixture
def host() -> Iterator[Host]:
    with host_of_webhooks() as host:
        yield host


def test_two_ingresses_count_a_quota_once(service: str, tools: Any) -> None:
    assert len(replicas("Ingress")) == 2
    began, answers = time.monotonic(), []
    for _ in range(40):  # each on a connection of its own, so that the proxy spreads them
        answers.append(
            httpx.post(
                f"{service}/v1/upscale",
                content=tools.encoded(4, 4),
                headers={"X-API-Key": COUNTED},
                timeout=60,
                trust_env=False,
            )
        )
    came = (time.monotonic() - began) / 60 * 6
    granted = [answer.status_code for answer in answers].count(200)
    assert 6 <= granted <= 6 + came + 1
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "quota_exceeded"


def test_both_ingresses_show_a_result_of_the_page(service: str, tools: Any) -> None:
    with client_of(service) as http:
        made = http.post("/v1/views?model=bicubic&scale=2", content=tools.encoded(9, 9)).json()
    shown: set[str] = set()

    def shown_by_both() -> bool:
        with client_of(
            service
        ) as http:  # on a connection of its own, so that the proxy spreads them
            assert http.get(f"/v1/views/{made['id']}").status_code == 200
            text = http.get("/metrics").text
        found = r'^rayscale_requests_total{.*path="other",replica="([^"]+)",status="200"'
        shown.update(re.findall(found, text, re.MULTILINE))
        return len(shown) == 2

    until(shown_by_both)


def test_a_batch_goes_from_bucket_to_bucket(http: httpx.Client, tools: Any) -> None:
    """Asked over HTTP, done by a job of Ray: outputs, a failure in words, its retry."""
    store = connect("s3://batches/data")
    images = {f"in/{i}.png": tools.encoded(8 + i, 9, seed=i) for i in range(3)}
    for key, data in images.items():
        store.write(key, data)
    store.write("in/broken.png", b"\x89PNG\r\n\x1a\n")
    asked = {
        "source": "s3://batches/data/in",
        "target": "s3://batches/data/out",
        "model": "bicubic",
        "options": {"scale": 2},
    }
    made = http.post("/v1/batches", json=asked, headers={"Idempotency-Key": "one"})
    assert made.status_code == 202, made.text
    path = f"/v1/batches/{made.json()['id']}"

    def ended() -> bool:
        return http.get(path).json()["state"] not in ("queued", "running")

    until(ended, 180)
    told = http.get(path).json()
    assert (told["state"], told["counts"]["failed"]) == ("partial", 1), told
    assert [failure["error"] for failure in told["failures"]] == ["bad_image"]
    for key, data in images.items():
        larger, expected = store.read(key.replace("in/", "out/")), direct(tools, data, None)
        np.testing.assert_array_equal(read_image(larger).pixels, read_image(expected).pixels)
    store.write("in/broken.png", images["in/0.png"])
    assert http.post(f"{path}/retry", content=b"").status_code == 202
    until(ended, 180)
    told = http.get(path).json()
    assert (told["state"], told["attempt"], told["counts"]["skipped"]) == ("done", 2, 3), told
    assert [batch["id"] for batch in http.get("/v1/batches").json()["batches"]] == [told["id"]]


def submit(http: httpx.Client, key: str | None = None, **more: Any) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return http.post("/v1/batches", json={**PLACES, "model": "bicubic", **more}, headers=headers)


def test_a_killed_job_is_told_to_its_webhook_though_nobody_asks(
    http: httpx.Client, tools: Any, host: Host
) -> None:
    connect(PLACES["source"]).write("a.png", tools.encoded(9, 9))
    batch = submit(http, webhook=host.url, overwrite=True).json()["id"]
    records = Records(connect("s3://batches/records"))
    until(lambda: records.read(batch).state == "running", 120)
    works = [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"{batch}.json" in " ".join(process.info["cmdline"] or ())
    ]
    assert works
    for process in works:
        process.send_signal(signal.SIGKILL)
    until(lambda: host.told(batch), 120)
    assert host.told(batch) == ["failed"]
    assert "retry it" in records.read(batch).message


def test_a_batch_is_charged_to_its_key(http: httpx.Client, tools: Any, host: Host) -> None:
    connect(PLACES["source"]).write("a.png", tools.encoded(9, 9))
    batch = submit(http, METERED, webhook=host.url, target="s3://batches/data/metered").json()["id"]
    until(lambda: host.told(batch), 180)
    assert host.told(batch) == ["done"]
    refused = submit(http, METERED)
    assert refused.status_code == 429, refused.text
    assert "megapixels a minute" in refused.json()["error"]["message"]
