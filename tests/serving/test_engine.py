"""The work on one image: stops when nobody waits, survives a full memory and a late default model."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
import torch
from tests.serving.deployed import until

from rayscale.errors import NotFoundError, OutOfMemoryError
from rayscale.imaging import probe, read_image
from rayscale.inference.memory import working_bytes
from rayscale.options import Options
from rayscale.registry import models
from rayscale.serving.engine import Engine
from rayscale.serving.errors import UnavailableError
from rayscale.serving.requests import UpscaleRequest
from rayscale.serving.settings import ServeSettings
from rayscale.serving.turns import GRAIN


@pytest.fixture
def engine(registry: Any) -> Any:
    made = Engine(ServeSettings(threads=1, refresh_s=0.05))
    yield made
    made.close()


def test_cancelled_work_stops_at_the_next_strip(engine: Engine, registry: Any, tools: Any) -> None:
    registry.add("roofs", 1)
    passes, first = [], threading.Event()

    def slow(*_: Any) -> None:
        passes.append(1)
        first.set()
        time.sleep(0.1)

    registry.networks["roofs/1"].sub_mean.register_forward_pre_hook(slow)
    job = UpscaleRequest(tools.encoded(600, 600), "roofs", Options(scale=2))

    async def run() -> None:
        task = asyncio.create_task(engine.upscale(job))
        await asyncio.to_thread(first.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The one thread is free again for the next request, long before all strips are done.
        small = await asyncio.wait_for(
            engine.upscale(UpscaleRequest(tools.encoded(5, 5), "bicubic", Options(scale=2))), 10
        )
        assert read_image(small.data).width == 10

    asyncio.run(run())
    assert len(passes) <= 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_full_memory_is_told_and_survived(
    engine: Engine, registry: Any, tools: Any, error: Exception
) -> None:
    registry.add("roofs", 1)
    broken = [True]

    def fail(*_: Any) -> None:
        if broken[0]:
            raise error

    registry.networks["roofs/1"].sub_mean.register_forward_pre_hook(fail)
    job = UpscaleRequest(tools.encoded(9, 9), "roofs", Options(scale=2))
    with pytest.raises(OutOfMemoryError):
        asyncio.run(engine.upscale(job))
    broken[0] = False
    assert asyncio.run(engine.upscale(job)).scale == 2


def test_a_late_default_model_makes_the_replica_ready(registry: Any) -> None:
    late = Engine(ServeSettings(model="roofs", refresh_s=0.02))
    late.start()
    assert not asyncio.run(late.ready())
    registry.add("roofs", 1)
    deadline = time.monotonic() + 5
    while not asyncio.run(late.ready()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    late.close()


def test_one_poisoned_image_fails_alone(engine: Engine, tools: Any) -> None:
    good = tools.encoded(12, 12)
    jobs = [
        UpscaleRequest(good),
        UpscaleRequest(good[:-30]),
        UpscaleRequest(good),
        UpscaleRequest(b""),
    ]

    async def run() -> list[Any]:
        return await asyncio.gather(*map(engine.upscale, jobs), return_exceptions=True)

    answers = asyncio.run(run())
    assert [isinstance(answer, Exception) for answer in answers] == [False, True, False, True]
    assert answers[0].data == answers[2].data


def test_a_hung_registry_and_unknown_names_keep_nothing_from_loaded_models(
    registry: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("roofs", 1)
    release = threading.Event()
    engine = Engine(ServeSettings(model="roofs", lookup_timeout_s=0.2, threads=1))
    engine.start()
    data, asked, resolve = tools.encoded(9, 9), [], registry.resolve

    def hang(reference: str) -> Any:
        asked.append(reference)
        release.wait(30)
        return resolve(reference)

    monkeypatch.setattr(models, "resolve", hang)

    async def run() -> None:
        lost = await asyncio.gather(
            *(engine.upscale(UpscaleRequest(data, f"unknown-{i}")) for i in range(20)),
            return_exceptions=True,
        )
        assert {type(error) for error in lost} == {UnavailableError}
        for reference in ("roofs", "bicubic", "edsr-baseline-x2"):  # in memory, and built in
            assert (
                await engine.upscale(UpscaleRequest(data, reference, Options(scale=2)))
            ).scale == 2
        assert "bicubic" in {model["name"] for model in await engine.models()}

    asyncio.run(run())
    assert len(asked) == 2  # the others were refused at once
    release.set()
    engine.close()


def test_a_name_that_does_not_exist_is_looked_up_once_in_a_while(
    registry: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(ServeSettings(refresh_s=0.5))
    data, asked, resolve = tools.encoded(9, 9), [], registry.resolve
    monkeypatch.setattr(models, "resolve", lambda name: asked.append(name) or resolve(name))

    async def ask() -> None:
        with pytest.raises(NotFoundError, match="there is no model 'new'"):
            await engine.upscale(UpscaleRequest(data, "new"))

    async def run() -> None:
        for _ in range(5):
            await ask()
        assert asked == ["new"]
        registry.add("new", 1)
        await asyncio.sleep(0.6)
        assert (await engine.upscale(UpscaleRequest(data, "new"))).model == "new/1"

    asyncio.run(run())
    engine.close()


@pytest.mark.parametrize("model", ["roofs", "bicubic"])
def test_all_who_ask_first_for_a_model_get_it(
    engine: Engine, registry: Any, tools: Any, model: str
) -> None:
    registry.add("roofs", 1)
    registry.before_load = lambda: time.sleep(0.1)  # long enough that all ask while it loads
    job = UpscaleRequest(tools.encoded(9, 9), model, Options(scale=2))

    async def run() -> list[Any]:
        return await asyncio.gather(*(engine.upscale(job) for _ in range(8)))

    assert len({answer.data for answer in asyncio.run(run())}) == 1
    assert registry.loads == ["roofs/1"] * (model == "roofs")


def test_a_short_image_overtakes_a_long_one_of_another(
    engine: Engine, registry: Any, tools: Any
) -> None:
    """One thread: the long one is interrupted between two strips, and both are what they are alone."""
    registry.add("roofs", 1)
    strips, first, there = [], threading.Event(), threading.Event()

    def note(*_: Any) -> None:
        strips.append(1)
        if not first.is_set():
            time.sleep(2 * GRAIN)  # the work of its first strip
            first.set()
            there.wait(30)

    long = UpscaleRequest(tools.encoded(600, 600), "roofs", Options(scale=2), owner="many")
    short = UpscaleRequest(tools.encoded(5, 5, seed=1), "bicubic", Options(scale=2), owner="one")

    async def run() -> list[Any]:
        alone = [await engine.upscale(long), await engine.upscale(short)]
        registry.networks["roofs/1"].sub_mean.register_forward_pre_hook(note)
        works = asyncio.create_task(engine.upscale(long))
        await asyncio.to_thread(first.wait, 30)
        overtakes = asyncio.create_task(engine.upscale(short))
        await asyncio.to_thread(until, lambda: engine.turns.waiting, 30)
        there.set()
        done, _ = await asyncio.wait([works, overtakes], return_when=asyncio.FIRST_COMPLETED)
        assert done == {overtakes}
        assert [(await works).data, (await overtakes).data] == [each.data for each in alone]
        return strips

    assert len(asyncio.run(run())) > 1


@pytest.mark.slow
def test_pictures_in_work_share_the_memory(
    registry: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fits; both do not, so the second waits for the first although a thread is free."""
    registry.add("roofs", 1)
    data = tools.encoded(64, 64)
    monkeypatch.setenv("RAYSCALE_MEMORY_BYTES", str(int(1.5 * working_bytes(probe(data), 2))))
    engine = Engine(ServeSettings(threads=2, refresh_s=60))
    at_once, most = [], []

    def watch(*_: Any) -> None:
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.2)
        at_once.pop()

    registry.networks["roofs/1"].sub_mean.register_forward_pre_hook(watch)

    async def both() -> None:
        asked = UpscaleRequest(data, "roofs", Options(scale=2))
        await asyncio.gather(engine.upscale(asked), engine.upscale(asked))

    try:
        asyncio.run(both())
    finally:
        engine.close()
    assert max(most) == 1
