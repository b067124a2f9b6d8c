"""Pictures of different requests in one pass of a network: the same bytes whoever came with them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from rayscale.imaging import read_image
from rayscale.options import Options
from rayscale.serving.engine import Engine
from rayscale.serving.packs import Packs
from rayscale.serving.requests import UpscaleRequest
from rayscale.serving.settings import ServeSettings


@pytest.fixture
def engine(registry: Any) -> Iterator[Engine]:
    """Packs of four, which wait long enough to be full on a busy machine."""
    made = Engine(ServeSettings(threads=4, pack=4, precision="float32"))
    made._packs = Packs(made._packs.size, wait_s=0.2)
    yield made
    made.close()


def asked_of(tools: Any, count: int) -> list[UpscaleRequest]:
    """Requests of three shapes, some of which no pack takes."""
    kinds: list[dict[str, Any]] = [
        {"size": (16, 20)},
        {"size": (16, 20)},
        {"size": (24, 12)},
        {"size": (16, 20), "bits": 16},
        {"size": (16, 20), "container": "webp"},
        {"size": (24, 12), "ensemble": True},
    ]
    made = []
    for number in range(count):
        kind = dict(kinds[number % len(kinds)])
        size, ensemble = kind.pop("size"), kind.pop("ensemble", False)
        options = Options(scale=2, ensemble=ensemble)
        made.append(UpscaleRequest(tools.encoded(*size, seed=number, **kind), "roofs", options))
    return made


def test_64_pictures_at_once_are_those_of_one_at_a_time(
    engine: Engine, registry: Any, tools: Any
) -> None:
    registry.add("roofs", 1)
    passes: list[int] = []

    def count(_: Any, given: Any) -> None:
        passes.append(given[0].shape[0])

    async def run() -> None:
        requests = asked_of(tools, 64)
        serial = [(await engine.upscale(request)).data for request in requests]
        registry.networks["roofs/1"].sub_mean.register_forward_pre_hook(count)
        together = await asyncio.gather(*map(engine.upscale, requests))
        assert [result.data for result in together] == serial
        assert len(set(serial)) == 64

    asyncio.run(run())
    packed = [size for size in passes if size > 1]
    assert set(packed) == {4}
    # Of 64 pictures 43 may be joined; alone each of them would be a pass.
    assert len(packed) < 43


def test_a_pass_that_fails_is_done_one_by_one(engine: Engine, registry: Any, tools: Any) -> None:
    registry.add("roofs", 1)
    failed = []

    def fail(_: Any, given: Any) -> None:
        if given[0].shape[0] > 1:
            failed.append(given)
            raise RuntimeError("no kernel for this batch")

    async def run() -> None:
        requests = [
            UpscaleRequest(tools.encoded(16, 20, seed=seed), "roofs", Options(scale=2))
            for seed in range(4)
        ]
        expected = [(await engine.upscale(request)).data for request in requests]
        registry.networks["roofs/1"].sub_mean.register_forward_pre_hook(fail)
        together = await asyncio.gather(*map(engine.upscale, requests))
        for result, wanted in zip(together, expected, strict=True):
            made, known = (read_image(data).pixels.astype(int) for data in (result.data, wanted))
            assert abs(made - known).max() <= 1  # sums of a batch may round otherwise

    asyncio.run(run())
    assert failed


def test_packs_are_for_gpus_unless_they_are_asked_for(registry: Any) -> None:
    sizes = []
    for settings in ({}, {"pack": 8}, {"pack": 8, "threads": 3}):
        made = Engine(ServeSettings(device="cpu", **settings))
        sizes.append(made._packs.size)
        made.close()
    assert sizes == [1, 2, 3]
