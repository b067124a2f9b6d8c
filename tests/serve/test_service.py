"""The service as it is deployed: real Ray, real registry, real HTTP, replicas that are killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayscale.imaging import read_image, write_image
from rayscale.inference import Upscaler
from rayscale.models.registry import create_model
from rayscale.models.weights import save_model


@pytest.fixture(scope="module")
def service(stack: Any, tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the service on the stack, with ``roofs@prod`` (version 1 of 2) as its default."""
    from serve.deploy import deploy, shutdown

    from rayscale import cluster, registry

    for seed in (1, 2):
        path = tmp_path_factory.mktemp("weights") / "model.safetensors"
        save_model(tools.tiny_model(seed), path)
        registry.publish(path, "roofs", scores={})
    registry.set_alias("roofs", "prod", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYSCALE_SERVE_REFRESH_S", "0.5")
        # Slow enough to be overloaded, fast enough for a test: one image at a time on one core.
        patch.setenv("RAYSCALE_SERVE_THREADS", "1")
        patch.setenv("RAYSCALE_SERVE_PRECISION", "float32")
        address = deploy(model="roofs@prod")
        yield address
        shutdown()
        cluster.shutdown()


@pytest.fixture
def http(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=120, trust_env=False) as client:
        yield client


def direct(tools: Any, data: bytes, seed: int | None, scale: int = 2) -> bytes:
    """What the library makes of ``data`` with the model of ``seed``, or bicubic."""
    model = create_model("bicubic") if seed is None else tools.tiny_model(seed)
    return write_image(Upscaler(model, scale, precision="float32").upscale(read_image(data)))


def replicas(deployment: str) -> list[int]:
    """The process ids of the living replicas of a deployment."""
    from ray.util.state import list_actors

    found = list_actors(filters=[("state", "=", "ALIVE")], detail=True)
    return [a.pid for a in found if a.class_name == f"ServeReplica:rayscale:{deployment}"]


def until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


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


def test_mixed_clients_get_their_own_images(http: httpx.Client, tools: Any) -> None:
    asked = [
        (f"/v1/upscale?model=bicubic&scale={2 + i % 3}", tools.encoded(10 + i, 50 - i, seed=i))
        for i in range(16)
    ]

    def post(request: tuple[str, bytes]) -> bytes:
        response = http.post(request[0], content=request[1])
        assert response.status_code == 200, response.text
        return response.content

    serial = [post(request) for request in asked]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(post, asked)) == serial
    assert serial == [direct(tools, data, None, 2 + i % 3) for i, (_, data) in enumerate(asked)]


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
    }
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "chunked": 411,
        "unknown model": 404,
        "address": 403,
        "scale": 422,
        "text": 415,
        "damaged": 422,
        "large": 413,
    }
    for answer in answers.values():
        assert set(answer.json()["error"]) == {"code", "message"}


def test_models_probes_and_pages(http: httpx.Client) -> None:
    listed = {model["reference"]: model for model in http.get("/v1/models").json()["models"]}
    assert {"bicubic", "bilinear", "roofs/1", "roofs/2"} <= set(listed)
    assert len(listed["roofs/1"]["weights_sha256"]) == 64
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert http.get(path).status_code == 200


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


def test_overload_is_refused_and_probes_stay_good(
    service: str, http: httpx.Client, tools: Any
) -> None:
    data = tools.encoded(250, 250)
    statuses: list[int] = []

    def post(_: int) -> httpx.Response:
        with httpx.Client(base_url=service, timeout=120, trust_env=False) as client:
            response = client.post("/v1/upscale?ensemble=true", content=data)
            statuses.append(response.status_code)
            return response

    with ThreadPoolExecutor(60) as pool:
        pending = [pool.submit(post, i) for i in range(60)]
        until(lambda: statuses)
        probes = [http.get(path).status_code for path in ("/healthz", "/readyz") for _ in range(3)]
        answers = [future.result() for future in pending]
    assert set(probes) == {200}
    assert set(statuses) == {200, 429}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all(answer.json()["error"]["code"] == "overloaded" for answer in refused)
    until(lambda: http.post("/v1/upscale?model=bicubic", content=data).status_code == 200, 20)


def test_a_killed_replica_comes_back(http: httpx.Client, tools: Any) -> None:
    data, large = tools.encoded(8, 8), tools.encoded(300, 300)
    expected = http.post("/v1/upscale", content=data).content
    until(lambda: len(replicas("Upscaling")) == 1 or len(replicas("Upscaling")) == 2)
    old = set(replicas("Upscaling"))
    in_flight: list[httpx.Response] = []
    poster = threading.Thread(
        target=lambda: in_flight.append(http.post("/v1/upscale?ensemble=true", content=large))
    )
    poster.start()
    time.sleep(0.5)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    poster.join(180)
    assert in_flight[0].status_code in (200, 503)  # lost with its replica, or waiting for one
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


def test_broken_files_never_fail_the_service(http: httpx.Client, shared_data: Path) -> None:
    for path in sorted((shared_data / "bad").iterdir()):
        if path.stat().st_size > 2_000_000:
            continue  # valid and slow, or seen by the tests without Ray
        response = http.post("/v1/upscale?model=bicubic", content=path.read_bytes())
        assert response.status_code in (200, 413, 415, 422), path.name
    assert http.get("/readyz").status_code == 200
