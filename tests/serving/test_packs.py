"""Pictures of different requests in one pass of a network: the same bytes whoever came with them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

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


def test_one_that_fails_does_not_take_the_others_with_it(engine: Engine, tools: Any) -> None:
    images = [tools.make_image(8, 8, seed=seed) for seed in range(2)]
    failures = [True]

    class Broken:
        """A pipeline whose passes of several fail, and one of whose pictures does."""

        options = Options(scale=2)

        class upscaler:  # noqa: N801
            class predictor:  # noqa: N801
                class model:  # noqa: N801
                    linear = False

        def enlarge(self, image: Any) -> Any:
            if image is images[1]:
                raise ValueError("bad")
            return image

        def enlarge_many(self, given: list[Any]) -> Any:
            failures.pop()
            raise ValueError("one of them is bad")

    packs, outcomes = Packs(2, wait_s=20), {}

    def work(at: int) -> None:
        try:
            outcomes[at] = packs.enlarge(Broken(), images[at])  # type: ignore[arg-type]
        except ValueError as error:
            outcomes[at] = str(error)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert outcomes == {0: images[0], 1: "bad"}
    assert not failures


def test_packs_are_for_gpus_unless_they_are_asked_for(registry: Any) -> None:
    sizes = []
    for settings in ({}, {"pack": 8}, {"pack": 8, "threads": 3}):
        made = Engine(ServeSettings(device="cpu", **settings))
        sizes.append(made._packs.size)
        made.close()
    assert sizes == [1, 2, 3]
