"""The service as it is deployed: real Ray, real registry, real HTTP, replicas that are killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.plugins import patients
from tests.serving.deployed import KEY, Line, burst, client_of, direct, replicas, resident, until
from tests.serving.odd_requests import PLACES, QUERIES

from rayscale.imaging import Image, read_image, write_image


@pytest.mark.parametrize(
    ("container", "bits"),
    [("png", 8), ("png", 16), ("jpeg", 8), ("webp", 8), ("tiff", 8), ("tiff", 16)],
)
def test_every_container_and_depth(
    http: httpx.Client, tools: Any, container: str, bits: int
) -> None:
    data = tools.encoded(33, 47, bits=bits, container=container)
    response = http.post("/v1/upscale", content=data)
    assert response.status_code == 200, response.text
    assert response.headers["x-rayscale-model"] == "roofs/1"
    ours, theirs = read_image(response.content), read_image(direct(tools, data, 1))
    assert (ours.container, ours.bits, ours.pixels.shape) == (container, bits, (66, 94, 3))
    # Another number of threads may add in another order: one step of rounding at most.
    assert abs(ours.pixels.astype(int) - theirs.pixels.astype(int)).max() <= (1 if bits == 8 else 2)


def test_a_large_picture_of_one_colour_takes_little_memory(http: httpx.Client, tools: Any) -> None:
    """A file of 56 KB, of which input and output alone are 230 MiB; as floats it took 2.3 GB."""
    image = Image(np.full((4000, 4000, 3), 90, np.uint8))
    pids = replicas("Upscaling")
    before = {pid: resident(pid, "VmRSS") for pid in pids}
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    response = http.post("/v1/upscale?model=bicubic&scale=2", content=write_image(image))
    assert response.status_code == 200, response.text
    growth = max(resident(pid, "VmHWM") - before[pid] for pid in pids)
    assert 150 << 20 < growth < 350 << 20


def test_computing_gives_way_to_answers(http: httpx.Client, tools: Any) -> None:
    """Or a refusal, a probe and every answer would wait for time slices of the networks."""
    assert http.post("/v1/upscale?scale=2", content=tools.encoded(30, 30)).status_code == 200
    for pid in replicas("Upscaling"):
        nice = {
            int(thread.read_text().rpartition(")")[2].split()[16])
            for thread in Path(f"/proc/{pid}/task").glob("*/stat")
        }
        own = os.getpriority(os.PRIO_PROCESS, pid)
        assert min(own + 4, 19) in nice, (own, nice)


def test_an_answer_of_many_megabytes(http: httpx.Client, tools: Any) -> None:
    """Larger than a message of gRPC may be where nobody raises its limit (4 MiB)."""
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    data = write_image(Image(noise))
    answer = http.post("/v1/upscale?model=bicubic&scale=2", content=data)
    assert answer.content == direct(tools, data, None)
    assert len(answer.content) > 5 << 20


def test_64_clients_get_their_own_images(service: str, tools: Any) -> None:
    """Row 7: mixed sizes, depths, bands, containers and models; each answer equal to the serial one, byte for byte."""
    kinds = [
        {"container": "png", "channels": 3},
        {"container": "png", "channels": 1, "bits": 16},
        {"container": "tiff", "channels": 4, "bits": 16},
        {"container": "jpeg", "channels": 1},
        {"container": "webp", "channels": 3},
        {"container": "png", "channels": 3, "bits": 16},
    ]
    asked = []
    for i in range(64):
        kind = kinds[i % 6]
        trained = kind["channels"] == 3 and i % 4 == 0
        query = "model=roofs@prod" if trained else f"model=bicubic&scale={2 + i % 3}"
        asked.append((f"/v1/upscale?{query}", tools.encoded(9 + i, 90 - i, seed=i, **kind)))

    def post(request: tuple[str, bytes]) -> bytes:
        with client_of(service) as client:
            while True:
                response = client.post(request[0], content=request[1])
                if response.status_code != 429:  # refused for the moment, which is an answer too
                    assert response.status_code == 200, response.text
                    return response.content
                time.sleep(0.2)

    serial = [post(request) for request in asked]
    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(post, asked)) == serial
    assert len(set(serial)) == 64
    for i in (2, 3, 5, 7):
        assert serial[i] == direct(tools, asked[i][1], None, 2 + i % 3)


def test_refusals_over_http(http: httpx.Client, tools: Any) -> None:
    image = tools.encoded(5, 5)

    def chunks() -> Iterator[bytes]:
        yield image

    answers = {
        "chunked": http.post("/v1/upscale", content=chunks()),
        "unknown model": http.post("/v1/upscale?model=nope", content=image),
        "address": http.post("/v1/upscale?model=s3://a/b", content=image),
        "scale": http.post("/v1/upscale?scale=3", content=image),
        "text": http.post("/v1/upscale", content=b"text"),
        "damaged": http.post("/v1/upscale", content=image[:-20]),
        "large": http.post("/v1/upscale", content=b"\x89PNG" + bytes(33 << 20)),
        "parameter": http.post("/v1/upscale?sharpness=true", content=image),
        "no key": httpx.post(http.base_url.join("/v1/upscale"), content=image, trust_env=False),
        "headers": http.get("/healthz", headers={"X-Large": "x" * 100_000}),
    }
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "chunked": 411,
        "unknown model": 404,
        "address": 403,
        "scale": 422,
        "text": 415,
        "damaged": 422,
        "large": 413,
        "parameter": 422,
        "no key": 401,
        "headers": 431,
    }
    for answer in answers.values():
        error = answer.json()["error"]
        assert set(error) == {"status", "code", "message", "limit", "hint", "request_id"}
        assert error["status"] == answer.status_code
        assert error["request_id"] == answer.headers["x-request-id"]


def test_models_probes_and_pages(http: httpx.Client) -> None:
    listed = {model["reference"]: model for model in http.get("/v1/models").json()["models"]}
    assert {"bicubic", "bilinear", "roofs/1", "roofs/2"} <= set(listed)
    assert len(listed["roofs/1"]["weights_sha256"]) == 64
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert http.get(path).status_code == 200


def test_metrics_gather_all_replicas(http: httpx.Client, tools: Any) -> None:
    for _ in range(4):
        assert http.post("/v1/upscale", content=tools.encoded(8, 8)).status_code == 200
    text = http.get("/metrics").text
    seen = set(re.findall(r'replica="([^"]+)"', text))
    assert len(seen) >= len(replicas("Ingress")) + len(replicas("Upscaling")) >= 3
    done = re.findall(r'^rayscale_images_total{code="",key="key-1".*} ([\d.]+)', text, re.M)
    assert sum(map(float, done)) >= 4


def test_an_alias_moves_without_a_failed_request(http: httpx.Client, tools: Any) -> None:
    from rayscale import registry

    data = tools.encoded(8, 8)
    seen: list[str] = []

    def version() -> str:
        response = http.post("/v1/upscale?model=roofs@prod", content=data)
        assert response.status_code == 200, response.text
        seen.append(response.headers["x-rayscale-model"])
        return seen[-1]

    assert version() == "roofs/1"
    registry.set_alias("roofs", "prod", 2)
    try:
        until(lambda: version() == "roofs/2", 30)
        assert seen == sorted(seen)  # once moved, never back
    finally:
        registry.set_alias("roofs", "prod", 1)
        until(lambda: version() == "roofs/1", 30)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_replica_comes_back(http: httpx.Client, tools: Any, sent: signal.Signals) -> None:
    data, large = tools.encoded(8, 8), tools.encoded(900, 900)
    expected = http.post("/v1/upscale", content=data).content
    until(lambda: replicas("Upscaling"))
    old = set(replicas("Upscaling"))
    in_flight: list[httpx.Response] = []
    poster = threading.Thread(
        target=lambda: in_flight.append(http.post("/v1/upscale?ensemble=true", content=large))
    )
    poster.start()
    time.sleep(0.5)
    for pid in old:
        os.kill(pid, sent)
    poster.join(180)
    # Row 14: lost with the replica that was killed; taken by another where it was told to end.
    assert in_flight[0].status_code == (200 if sent is signal.SIGTERM else 503), in_flight[0].text
    assert http.get("/healthz").status_code == 200
    seen: list[int] = []

    def works() -> bool:
        try:
            response = http.post("/v1/upscale", content=data, timeout=20)
        except httpx.ReadTimeout:  # waits for the new replica, which a busy machine starts slowly
            return False
        seen.append(response.status_code)
        return response.status_code == 200 and response.content == expected

    until(works, 180)
    assert set(seen) <= {200, 503}
    assert not old & set(replicas("Upscaling"))


@given(
    method=st.sampled_from(["POST", "POST", "POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS"]),
    place=PLACES,
    query=QUERIES,
    header=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=50),
    cut=st.integers(0, 400),
    noise=st.binary(max_size=40),
    container=st.sampled_from(["png", "jpeg", "tiff", "webp"]),
)
@settings(
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_request_makes_the_service_fail(
    http: httpx.Client,
    tools: Any,
    method: str,
    place: str,
    query: dict[str, str],
    header: str,
    cut: int,
    noise: bytes,
    container: str,
) -> None:
    """Row 26 over HTTP: anything is answered, never with a 5xx, and every refusal is in the one form."""
    image = tools.encoded(12, 12, container=container)
    body = image[:cut] + noise + image[cut + len(noise) :] if cut % 2 else image
    answer = http.request(
        method, place, params=query, content=body, headers={"Content-Type": header.strip()}
    )
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and method != "HEAD":
        error = answer.json()["error"]
        assert set(error) == {"status", "code", "message", "limit", "hint", "request_id"}
        assert error["status"] == answer.status_code
        assert error["request_id"] == answer.headers["x-request-id"]


def test_slow_sockets_keep_nobody_out(service: str, http: httpx.Client, tools: Any) -> None:
    """Row 5: bodies that are announced and never sent, or slowly, or broken off; answers that nobody reads."""
    address = urlsplit(service)
    place = str(address.hostname), int(address.port or 80)
    image = tools.encoded(60, 60)
    head = "POST /v1/upscale?model=bicubic HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n"

    def begin(length: int, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(place, timeout=60)
        connection.sendall(head.format(KEY, length).encode() + sent)
        return connection

    idle = [begin(32 << 20, b"\x89PNG") for _ in range(40)]
    slow = begin(len(image), image[:10])
    for _ in range(5):
        assert http.post("/v1/upscale?model=bicubic", content=image).status_code == 200
        assert http.get("/readyz").status_code == 200
    for at in range(10, len(image), 4000):  # never silent for long
        time.sleep(0.3)
        slow.sendall(image[at : at + 4000])
    assert b" 200 " in slow.recv(65536).partition(b"\r\n")[0]
    for connection in idle:  # 408 after the idle limit, each
        assert b" 408 " in connection.recv(65536).partition(b"\r\n")[0]
    for number in range(60):
        if number % 2:
            begin(len(image), image[:500]).close()
        else:
            begin(len(image), image).close()  # before the answer
    until(lambda: http.post("/v1/upscale?model=bicubic", content=image).status_code == 200, 20)
    for connection in (*idle, slow):
        connection.close()


@pytest.mark.parametrize("state", ["refusing", "hung"])
def test_serving_goes_on_without_mlflow(
    line: Line, http: httpx.Client, tools: Any, state: str
) -> None:
    """Row 22: the registry is gone, or hangs; models in memory are served, all others are 503 without delay for anyone."""
    data = tools.encoded(20, 20)
    expected = http.post("/v1/upscale", content=data)
    assert expected.status_code == 200
    line.state = state
    try:
        with ThreadPoolExecutor(12) as pool:
            unknown = [
                pool.submit(http.post, f"/v1/upscale?model=unknown-{state}-{i}", content=data)
                for i in range(12)
            ]
            for _ in range(10):
                answer = http.post("/v1/upscale", content=data)
                assert (answer.status_code, answer.content) == (200, expected.content)
                assert http.get("/readyz").status_code == 200
            statuses = {future.result().status_code for future in unknown}
        assert statuses <= {429, 503}
        assert http.get("/v1/models").status_code in (
            200,
            503,
        )  # the last list, of a replica that had one
    finally:
        line.restore()


@pytest.mark.timeout(600)
def test_a_burst_of_ten_times_the_places(service: str, tools: Any) -> None:
    """Row 6: about as many as there are places are in at a time and done, all others are refused, and probes are answered."""
    places = (
        2 * 16 + 4 * 4
    )  # the queues of two ingresses, and the places of all replicas there may be
    data = tools.encoded(96, 96)  # about half a second of EDSR on a core

    path = "/v1/upscale?model=edsr-baseline-x2&scale=2"
    asked, probes = asyncio.run(burst(service, path, data, 10 * places))
    refused = [answer for _, _, answer in asked if answer.status_code == 429]
    done = [(begun, ended) for begun, ended, answer in asked if answer.status_code == 200]
    assert {answer.text for _, _, answer in asked if answer.status_code not in (200, 429)} == set()
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert {answer.json()["error"]["code"] for answer in refused} == {"overloaded"}
    assert probes == {200}
    # An ingress that learns how long its queue is lets some more in.
    together = max(sum(begun <= moment < ended for begun, ended in done) for moment, _ in done)
    assert places // 4 <= together <= 2 * places
    # Nothing of the burst stays: the queues are empty, and the next image is taken at once.
    with client_of(service) as http:
        gauges = re.compile(r"^rayscale_images_(?:waiting|running)(?:\{.*\})? (.+)$", re.M)
        until(lambda: {float(n) for n in gauges.findall(http.get("/metrics").text)} == {0.0})
        answer = http.post("/v1/upscale?model=edsr-baseline-x2&scale=2", content=data)
        assert answer.status_code == 200, answer.text


def test_a_lost_ingress_leaves_another_and_answers_in_form(
    service: str, http: httpx.Client, tools: Any
) -> None:
    until(lambda: len(replicas("Ingress")) == 2)
    data, answers = tools.encoded(8, 8), []
    os.kill(replicas("Ingress")[0], signal.SIGKILL)
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        with client_of(service) as client:
            answers.append(client.post("/v1/upscale?model=bicubic", content=data))
    lost = [answer for answer in answers if answer.status_code != 200]
    assert len(lost) <= len(answers) // 2
    for answer in lost:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "unavailable"
    until(lambda: len(replicas("Ingress")) == 2)


def test_broken_files_never_fail_the_service(http: httpx.Client, shared_data: Path) -> None:
    for path in sorted((shared_data / "bad").iterdir()):
        if path.stat().st_size > 2_000_000:
            continue  # valid and slow, or seen by the tests without Ray
        response = http.post("/v1/upscale?model=bicubic", content=path.read_bytes())
        assert response.status_code in (200, 413, 415, 422), path.name
    assert http.get("/readyz").status_code == 200


def test_no_patient_is_named_by_an_answer_or_a_log(
    http: httpx.Client, stack: Any, stack_home: Path
) -> None:
    """The logs of replicas, ingresses and proxies lie with those of Ray."""
    pytest.importorskip("pydicom", reason="needs the extra medical")
    from rayscale.local.ray import temporary_folder

    told = []
    for name, data in patients.make_files().items():
        answer = http.post("/v1/upscale?model=bicubic&scale=2", content=data)
        told.append(answer.status_code)
        told_of = {**answer.headers, "body": "" if answer.is_success else answer.text}
        assert "QXZPatie" not in str(told_of), name
    assert told.count(200) >= 1
    assert sum(status in (413, 415, 422) for status in told) == len(told) - told.count(200)
    logs = list(temporary_folder(stack_home).glob("session_2*/logs"))
    assert any(list(folder.glob("serve/replica_*")) for folder in logs)
    assert list(patients.find_patient([*logs, stack_home / "logs"])) == []
