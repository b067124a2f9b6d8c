"""What a key may do, and whose turn it is."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.plugins.web import EndlessJobs

from rayscale.cli.app import run
from rayscale.errors import ConfigError
from rayscale.serving import deploy
from rayscale.serving.api import create_app
from rayscale.serving.errors import OverloadedError, QuotaError
from rayscale.serving.fairness import FairQueue
from rayscale.serving.keys import Key, hash_key, parse_keys, render_keys
from rayscale.serving.quotas import Quotas
from rayscale.serving.requests import Result, UpscaleRequest
from rayscale.serving.settings import ServeSettings, get_serve_settings

A, B = "a-key-of-somebody-long-enough", "b-key-of-somebody-long-enough"


def keys(**more: Any) -> str:
    """Two keys, the first with limits."""
    return render_keys([Key("a", hash_key(A), **more), Key("b", hash_key(B))])


def as_(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.slow
def test_a_made_key_is_let_in_and_a_removed_one_is_not(
    make_app: Any, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    made = {}
    for name in ("radiology", "maps"):
        assert run("keys", "add", name, "--file", str(file), "--priority", "2") == 0
        made[name] = capsys.readouterr().out.strip()
    assert (file.stat().st_mode & 0o777) == 0o600
    assert not any(key in file.read_text() for key in made.values())
    assert run("keys", "add", "maps", "--file", str(file)) == 2
    assert run("keys", "list", "--file", str(file)) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(key["id"], key["priority"]) for key in shown] == [(name, 2.0) for name in made]
    assert "sha256" not in str(shown)
    app = make_app(keys_file=file)
    for key in made.values():
        assert tools.call(app, "GET", "/v1/models", headers=as_(key)).status_code == 200
    assert run("keys", "remove", "maps", "--file", str(file)) == 0
    app = make_app(keys_file=file)
    told = [tools.call(app, "GET", "/v1/models", headers=as_(k)).status_code for k in made.values()]
    assert told == [200, 401]
    assert run("keys", "remove", "radiology", "--file", str(file)) == 2  # would open the service


def test_keys_of_a_file_reach_the_cluster_as_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(keys(models=("edsr*",)))
    monkeypatch.setenv("RAYSCALE_SERVE_KEYS_FILE", str(file))
    get_serve_settings.cache_clear()
    schema = deploy._schema(deploy.CONFIG, None, None, None)
    variables = dict(schema.applications[0].runtime_env["env_vars"])
    get_serve_settings.cache_clear()
    assert parse_keys(variables["RAYSCALE_SERVE_KEYS"], "x") == parse_keys(file.read_text(), "x")
    assert variables["RAYSCALE_SERVE_INGRESSES"] == "2"
    assert variables["RAYSCALE_SERVE_SLEEPS"] == "false"  # min_replicas: 1
    assert A not in str(variables)
    told = ServeSettings(keys=variables["RAYSCALE_SERVE_KEYS"], keys_file="/not/on/this/node")
    assert told.access() == "keys: 2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[1]",
        '[{"id": "a"}]',
        '[{"id": "a", "sha256": "0"}]',
        '[{"sha256": "x"}]',
        json.dumps([{"id": "a b", "sha256": "0" * 64}]),
        json.dumps([{"id": "a", "sha256": "0" * 64, "priority": 0}]),
        json.dumps([{"id": "a", "sha256": "0" * 64}] * 2),
    ],
)
def test_a_service_whose_keys_cannot_be_read_does_not_start(
    make_app: Any, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    for settings in ({"keys": text}, {"keys_file": file}, {"keys_file": tmp_path / "none"}):
        with pytest.raises(ConfigError):
            make_app(**settings)


def test_a_key_uses_its_models_only(make_app: Any, tools: Any, registry: Any) -> None:
    registry.add("roofs", 1, "prod")
    app = make_app(keys=keys(models=("roofs", "bicubic")))
    data = tools.encoded(5, 5)

    def ask(key: str, query: str, path: str = "upscale") -> int:
        place = f"/v1/{path}?{query}"
        return int(tools.call(app, "POST", place, content=data, headers=as_(key)).status_code)

    for query in ("model=roofs", "model=roofs@prod", "model=roofs/1", "scale=2"):
        assert ask(A, query) == 200
    for path in ("upscale", "estimate"):
        assert ask(A, "model=bilinear", path) == 403
        assert ask(B, "model=bilinear", path) == 200


def test_a_key_has_its_requests_and_megapixels(make_app: Any, tools: Any) -> None:
    app = make_app(keys=keys(requests_per_minute=2, megapixels_per_minute=1000))
    data = tools.encoded(5, 5)
    told = []
    for key in (A, A, A, B, B, B):
        told.append(tools.call(app, "POST", "/v1/upscale", content=data, headers=as_(key)))
    assert [answer.status_code for answer in told] == [200, 200, 429, 200, 200, 200]
    assert told[2].json()["error"]["code"] == "quota_exceeded"
    assert "2 requests a minute" in told[2].json()["error"]["message"]
    assert 1 <= int(told[2].headers["retry-after"]) <= 30


def test_a_bucket_fills_as_its_minute_passes() -> None:
    now = [0.0]
    quotas = Quotas(clock=lambda: now[0])
    key = Key("a", "0" * 64, megapixels_per_minute=30)
    take = lambda megapixels: asyncio.run(quotas.take_megapixels(key, megapixels))  # noqa: E731
    take(100)  # larger than all: once
    with pytest.raises(QuotaError) as refused:
        take(1)
    assert refused.value.retry_after_s == 142  # 71 at half a megapixel a second
    now[0] = 141.5
    with pytest.raises(QuotaError):
        take(1)
    now[0] = 142.0
    take(1)


def test_a_batch_is_paid_before_the_next_one(tools: Any, tmp_path: Path) -> None:
    now, limited = [0.0], Key("a", hash_key(A), megapixels_per_minute=60)
    quotas = Quotas(clock=lambda: now[0])
    settings = ServeSettings(
        keys=render_keys([limited, Key("b", hash_key(B))]),
        batches_uri=str(tmp_path / "records"),
        batch_prefixes=str(tmp_path),
    )
    app = create_app(None, settings, jobs=EndlessJobs(), quotas=quotas)  # type: ignore[arg-type]
    asked = {"source": f"{tmp_path}/in", "target": f"{tmp_path}/out", "model": "bicubic"}

    def submit(key: str) -> httpx.Response:
        answer: httpx.Response = tools.call(
            app, "POST", "/v1/batches", json=asked, headers=as_(key)
        )
        return answer

    assert submit(A).status_code == 202
    asyncio.run(quotas.charge(limited, 100))  # 60 were there
    refused = submit(A)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "40")
    assert submit(B).status_code == 202
    now[0] = 40.0
    assert submit(A).status_code == 202


def served(queue: FairQueue, asked: list[tuple[str, float, float]]) -> list[str]:
    """The owners in the order in which their turns came; all ask at once."""
    order: list[str] = []

    async def work(owner: str, weight: float, cost: float) -> None:
        async with queue.turn(owner, weight=weight, cost=cost):
            order.append(owner)
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*(work(*each) for each in asked))

    asyncio.run(all_of_them())
    assert queue.running == queue.waiting == 0
    return order


def test_one_image_does_not_wait_for_five_hundred() -> None:
    order = served(FairQueue(lambda: 2, 1000), [("many", 1, 1)] * 500 + [("one", 1, 1)])
    assert order.index("one") <= 3  # two at work, and one whose turn came first


def test_who_has_nothing_at_work_has_a_place_at_once() -> None:
    async def run_it() -> list[str]:
        queue, gate, begun = FairQueue(lambda: 2, 9, lambda: 1), asyncio.Event(), []

        async def work(owner: str) -> None:
            async with queue.turn(owner):
                begun.append(owner)
                await gate.wait()

        owners = ["many"] * 5 + ["one"] * 2 + ["other"]
        tasks = [asyncio.create_task(work(owner)) for owner in owners]
        await asyncio.sleep(0)
        there = list(begun)
        gate.set()
        await asyncio.gather(*tasks)
        assert queue.running == queue.waiting == 0
        return there

    # Two places, and a spare one, which is for whoever came first of those with nothing at work.
    assert asyncio.run(run_it()) == ["many", "many", "one"]


def test_turns_are_in_proportion_to_weight_and_cost() -> None:
    asked = [("heavy", 1.0, 4.0)] * 50 + [("light", 1.0, 1.0)] * 200 + [("first", 3.0, 1.0)] * 200
    random.Random(1).shuffle(asked)
    begun = served(FairQueue(lambda: 1, 1000), asked)[:160]
    counts = {owner: begun.count(owner) for owner in ("heavy", "light", "first")}
    # 1/4 : 1 : 3 pieces in any time
    assert counts["first"] == pytest.approx(3 * counts["light"], rel=0.1)
    assert counts["light"] == pytest.approx(4 * counts["heavy"], rel=0.25)


def test_a_full_queue_refuses_who_fills_it() -> None:
    async def run_it() -> tuple[int, int]:
        queue, gate = FairQueue(lambda: 1, 4), asyncio.Event()

        async def work(owner: str) -> None:
            async with queue.turn(owner):
                await gate.wait()

        many = [asyncio.create_task(work("many")) for _ in range(9)]
        await asyncio.sleep(0)
        few = [asyncio.create_task(work("few")) for _ in range(2)]
        await asyncio.sleep(0)
        gate.set()
        outcomes = await asyncio.gather(*many, *few, return_exceptions=True)
        refused = [isinstance(outcome, OverloadedError) for outcome in outcomes]
        assert queue.running == queue.waiting == 0
        return sum(refused[:9]), sum(refused[9:])

    # One at work and four that wait; two of those make room.
    assert asyncio.run(run_it()) == (6, 0)


def test_places_come_back_from_clients_that_leave() -> None:
    async def run_it() -> None:
        queue = FairQueue(lambda: 1, 10)

        async def work() -> None:
            async with queue.turn("a"):
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(work()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in reversed(tasks):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(run_it())


class Slow:
    """One image at a time; counts how many were done before each."""

    def __init__(self) -> None:
        self.order: list[bytes] = []

    def name(self) -> str:
        return "here"

    def places(self) -> int:
        return 1

    async def upscale(self, job: UpscaleRequest) -> Result:
        await asyncio.sleep(0.001)
        self.order.append(job.data)
        return Result(job.data, "png", "bicubic", "", 2, {})


def test_a_client_with_many_images_does_not_starve_another(make_app: Any, tools: Any) -> None:
    backend = Slow()
    app = make_app(backend, keys=keys(), max_waiting=200)
    many, one = tools.encoded(8, 8), tools.encoded(8, 8, seed=1)

    async def together() -> list[httpx.Response]:
        async with tools.client(app) as http:
            asked = [http.post("/v1/upscale", content=many, headers=as_(A)) for _ in range(100)]
            tasks = [asyncio.create_task(each) for each in asked]
            while len(backend.order) < 10:
                await asyncio.sleep(0.001)
            before = len(backend.order)
            answer = await http.post("/v1/upscale", content=one, headers=as_(B))
            assert backend.order.index(one) <= before + 20
            return [answer, *await asyncio.gather(*tasks)]

    assert {answer.status_code for answer in asyncio.run(together())} == {200}


class Stuck(Slow):
    """Ends no image before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def upscale(self, job: UpscaleRequest) -> Result:
        await self.gate.wait()
        return await super().upscale(job)


@pytest.mark.parametrize("path", ["/v1/upscale", "/v1/views", "/v2/models/bicubic/infer"])
def test_a_full_queue_refuses_before_the_body_is_read(make_app: Any, tools: Any, path: str) -> None:
    async def run_it() -> tuple[list[int], int, bytes]:
        backend = Stuck()
        app = make_app(backend, keys=keys(), max_waiting=1)
        queue, data = app.state.service.queue, tools.encoded(8, 8)
        async with tools.client(app) as http:
            ask = lambda: http.post("/v1/upscale", content=data, headers=as_(A))  # noqa: E731
            tasks = [asyncio.create_task(ask()) for _ in range(2)]
            while not queue.waiting:  # one is at work
                await asyncio.sleep(0.001)
            status, body = await ask_without_body(app, path)
            backend.gate.set()
            return [answer.status_code for answer in await asyncio.gather(*tasks)], status, body

    admitted, status, body = asyncio.run(run_it())
    assert admitted == [200] * 2
    assert status == 429
    assert b"RAYSCALE_SERVE_MAX_WAITING" in body


async def ask_without_body(app: Any, path: str) -> tuple[int, bytes]:
    """The answer to a request whose announced body never comes."""
    told: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        told.append(message)

    headers = [(b"content-length", b"999"), (b"authorization", f"Bearer {A}".encode())]
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": path, "raw_path": path.encode(),
        "root_path": "", "query_string": b"", "headers": headers, "client": ("192.0.2.1", 5), "server": ("service", 80),
    }  # fmt: skip
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    return told[0]["status"], told[1]["body"]


def test_no_dependency_of_a_route_takes_a_thread(
    make_app: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastAPI gives each plain function a thread for each request, which takes as long as all the rest."""

    def refuse(call: Any, **_: Any) -> None:
        raise AssertionError(f"{call} is a plain function")

    monkeypatch.setattr("fastapi.dependencies.utils.run_in_threadpool", refuse)
    app = make_app(Slow(), keys=keys())
    for path in ("/v1/upscale", "/v1/estimate"):
        answer = tools.call(
            app, "POST", path, content=tools.encoded(8, 8), headers=as_(A), params={"scale": "x"}
        )
        assert "scale" in answer.json()["error"]["message"]
    answer = tools.call(
        app, "POST", "/v1/upscale", content=tools.encoded(8, 8), headers=as_(A), params={"scale": 2}
    )
    assert answer.status_code == 200
