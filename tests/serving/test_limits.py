"""Body limits as ASGI sees them: lies about the length, slowness, sums, and what is given back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayscale.errors import TooLargeError
from rayscale.serving.errors import (
    BadParameterError,
    BodyTimeoutError,
    LengthRequiredError,
    OverloadedError,
)
from rayscale.serving.limits import BodyLimit


async def read_all(scope: Any, receive: Any, send: Any) -> None:
    """An application that takes the whole body."""
    total = 0
    while True:
        message = await receive()
        total += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "done", "total": total})


def scope(
    *headers: tuple[bytes, bytes], method: str = "POST", peer: str = "192.0.2.1"
) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": "/",
        "headers": list(headers),
        "client": (peer, 5),
    }


def feed(*chunks: bytes, pause: float = 0) -> Any:
    """A ``receive`` that gives these chunks, then waits for ever."""
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause if left else 100)
        return {"type": "http.request", "body": left.pop(0), "more_body": True}

    return receive


def whole(data: bytes) -> Any:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    return receive


async def ignore(message: Any) -> None:
    pass


def limit(app: Any = read_all, **kinds: Any) -> BodyLimit:
    values = {
        "max_bytes": 100,
        "max_form_bytes": 100,
        "max_pending_bytes": 150,
        "max_arriving": 4,
        "peer_share": 1.0,
        "timeout_s": 0.2,
        "rate": 1e9,
        "idle_s": 5.0,
    }
    return BodyLimit(app, **{**values, **kinds})


class IdleClock(asyncio.SelectorEventLoop):
    """A loop whose time passes only while it waits, so that a busy machine is no slower than an idle one."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector.select = self._wait  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now

    def _wait(self, timeout: float | None = None) -> list[Any]:
        self._now += timeout or 0.0
        return []


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ((), LengthRequiredError),
        (((b"transfer-encoding", b"chunked"),), LengthRequiredError),
        (((b"content-length", b"5"), (b"transfer-encoding", b"chunked")), LengthRequiredError),
        (((b"content-length", b"-1"),), BadParameterError),
        (((b"content-length", b"1e3"),), BadParameterError),
        (((b"content-length", "٣".encode()),), BadParameterError),
        (((b"content-length", b"101"),), TooLargeError),
        (((b"content-length", b"9" * 100_000),), TooLargeError),
    ],
)
def test_refuses_before_reading(headers: Any, error: type[Exception]) -> None:
    async def never() -> Any:
        pytest.fail("the body was read")

    with pytest.raises(error):
        asyncio.run(limit()(scope(*headers), never, ignore))


def test_a_body_longer_than_announced_is_cut() -> None:
    guarded = limit()
    body = feed(*[b"x" * 30] * 10)
    with pytest.raises(TooLargeError):
        asyncio.run(guarded(scope((b"content-length", b"10")), body, ignore))
    assert guarded.pending_bytes == 0


def test_a_slow_body_ends_and_gives_its_place_back() -> None:
    guarded = limit()
    for _ in range(3):
        # Each byte comes soon enough, the whole does not.
        with pytest.raises(BodyTimeoutError, match="of 50 bytes"):
            asyncio.run(
                guarded(scope((b"content-length", b"50")), feed(*[b"x"] * 50, pause=0.02), ignore)
            )
    assert guarded.pending_bytes == 0


def test_the_sum_of_bodies_is_bounded() -> None:
    async def run() -> None:
        release = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await release.wait()

        guarded = limit(slow)
        length = (b"content-length", b"80")
        first = asyncio.create_task(guarded(scope(length), whole(b"x" * 80), ignore))
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError):
            await guarded(scope(length), whole(b"x" * 80), ignore)
        small = asyncio.create_task(
            guarded(scope((b"content-length", b"70")), whole(b"x" * 70), ignore)
        )
        await asyncio.sleep(0.01)
        assert guarded.pending_bytes == 150
        release.set()
        await asyncio.gather(first, small)
        await guarded(scope(length), whole(b"x" * 80), ignore)
        assert guarded.pending_bytes == 0

    asyncio.run(run())


def test_announcements_that_send_nothing_take_no_room() -> None:
    async def run() -> None:
        guarded = limit(max_arriving=100)
        length = (b"content-length", b"100")
        idle = [asyncio.create_task(guarded(scope(length), feed(), ignore)) for _ in range(50)]
        await asyncio.sleep(0.01)
        assert (guarded.arriving, guarded.pending_bytes) == (50, 0)
        await guarded(scope(length), whole(b"x" * 100), ignore)
        for task in idle:
            task.cancel()
        await asyncio.gather(*idle, return_exceptions=True)
        assert (guarded.arriving, guarded.pending_bytes) == (0, 0)

    asyncio.run(run())


def test_a_silent_body_is_given_up_before_a_slow_one() -> None:
    guarded = limit(timeout_s=10, idle_s=0.05)
    with pytest.raises(BodyTimeoutError, match=r"no byte came for 0\.05 s"):
        asyncio.run(guarded(scope((b"content-length", b"50")), feed(b"x" * 20), ignore))
    assert (guarded.arriving, guarded.pending_bytes) == (0, 0)


def test_an_honest_line_gets_the_time_it_needs() -> None:
    """Ten chunks at twice the rate that is asked for take four times as long as the fixed part of the deadline."""
    guarded = limit(timeout_s=0.05, rate=250, max_bytes=1000, max_pending_bytes=1000)
    chunks = [b"x" * 10] * 9

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        if chunks:
            return {"type": "http.request", "body": chunks.pop(), "more_body": True}
        return {"type": "http.request", "body": b"x" * 10, "more_body": False}

    with asyncio.Runner(loop_factory=IdleClock) as runner:
        runner.run(guarded(scope((b"content-length", b"100")), receive, ignore))
        assert runner.get_loop().time() == pytest.approx(0.2)
    assert guarded.pending_bytes == 0


def test_one_address_gets_its_share_only() -> None:
    async def run() -> None:
        guarded = limit(peer_share=0.5, max_pending_bytes=400)
        length = (b"content-length", b"100")
        one = [
            asyncio.create_task(guarded(scope(length), feed(b"x" * 100), ignore)) for _ in range(2)
        ]
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError, match="2 of them yours"):
            await guarded(scope(length), whole(b"x" * 100), ignore)
        await guarded(scope(length, peer="192.0.2.2"), whole(b"x" * 100), ignore)
        for task in one:
            task.cancel()
        await asyncio.gather(*one, return_exceptions=True)
        await guarded(scope(length), whole(b"x" * 100), ignore)
        assert (guarded.arriving, guarded.pending_bytes) == (0, 0)
        assert guarded._peers == {}  # forgotten, or addresses would fill the memory

    asyncio.run(run())


def test_bodies_on_their_way_leave_places_free() -> None:
    async def run() -> None:
        guarded = limit(max_arriving=3)
        length = (b"content-length", b"100")
        slow = [
            asyncio.create_task(guarded(scope(length, peer=f"192.0.2.{i}"), feed(), ignore))
            for i in range(3)
        ]
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError, match="3 bodies are on their way"):
            await guarded(scope(length), whole(b"x"), ignore)
        await guarded(scope(method="GET"), whole(b""), ignore)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(run())


def test_one_body_of_the_largest_size_always_fits() -> None:
    guarded = limit(max_bytes=500)
    asyncio.run(guarded(scope((b"content-length", b"500")), whole(b"x" * 500), ignore))


def test_waiting_for_the_disconnect_has_no_deadline() -> None:
    async def run() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            assert (await receive())["type"] == "http.disconnect"

        messages = iter(
            [
                {"type": "http.request", "body": b"x", "more_body": False},
                {"type": "http.disconnect"},
            ]
        )
        times = iter([0.0, 2.0])

        async def receive() -> Any:
            await asyncio.sleep(next(times))
            return next(messages)

        await limit(app, timeout_s=1.0)(scope((b"content-length", b"1")), receive, ignore)

    asyncio.run(run())


def test_probes_pass_freely() -> None:
    asyncio.run(limit()(scope(method="GET"), whole(b""), ignore))
