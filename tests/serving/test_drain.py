"""How the service stops: who is still answered, who is refused, and when the rest is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from rayscale.errors import NotFoundError
from rayscale.serving.api import create_app
from rayscale.serving.drain import Drain
from rayscale.serving.settings import ServeSettings


class Backend:
    """Works on an image until it is told to go on; then the model is not known."""

    def __init__(self) -> None:
        self.works, self.goes_on, self.given_up = asyncio.Event(), asyncio.Event(), False

    def places(self) -> int:
        return 4

    async def ready(self) -> bool:
        return True

    async def upscale(self, job: Any) -> Any:
        self.works.set()
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        raise NotFoundError("done")


def run(
    scene: Callable[[httpx.AsyncClient, Backend, Drain, Any], Awaitable[None]], tools: Any
) -> None:
    """``scene`` with a client, and a request that the backend works on."""

    async def play() -> None:
        backend, drain = Backend(), Drain()
        app: Any = create_app(backend, ServeSettings(), drain)  # type: ignore[arg-type]
        async with tools.client(app) as client:
            image = tools.encoded(3, 3)
            request = asyncio.create_task(client.post("/v1/upscale", content=image))
            await backend.works.wait()
            await scene(client, backend, drain, request)

    asyncio.run(asyncio.wait_for(play(), 60))


def test_what_is_in_progress_is_answered_and_what_is_new_is_refused(tools: Any) -> None:
    async def scene(
        client: httpx.AsyncClient, backend: Backend, drain: Drain, request: Any
    ) -> None:
        closed = asyncio.create_task(drain.close(1000))
        await asyncio.sleep(0)
        for path in ("/readyz", "/v1/models"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        assert not closed.done()
        backend.goes_on.set()
        assert (await request).status_code == 404  # what the backend said
        await closed

    run(scene, tools)


def test_what_takes_too_long_is_given_up_with_an_answer(tools: Any) -> None:
    async def scene(
        client: httpx.AsyncClient, backend: Backend, drain: Drain, request: Any
    ) -> None:
        await drain.close(0.01)
        answer = await request
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert "stopped before this was done" in answer.json()["error"]["message"]
        assert backend.given_up

    run(scene, tools)


def test_an_idle_service_stops_without_waiting() -> None:
    asyncio.run(asyncio.wait_for(Drain().close(1000), 10))
