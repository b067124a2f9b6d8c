"""Body limits as ASGI sees them: lies about the length, slowness, sums, and what is given back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from serve.errors import BadParameterError, BodyTimeoutError, LengthRequiredError, OverloadedError
from serve.limits import BodyLimit

from rayscale.errors import TooLargeError


async def read_all(scope: Any, receive: Any, send: Any) -> None:
    """An application that takes the whole body."""
    total = 0
    while True:
        message = await receive()
        total += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "done", "total": total})


def scope(*headers: tuple[bytes, bytes], method: str = "POST") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": "/", "headers": list(headers)}


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
    values = {"max_bytes": 100, "max_pending_bytes": 150, "timeout_s": 0.2, **kinds}
    return BodyLimit(app, **values)


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
        times = iter([0.0, 0.1])

        async def receive() -> Any:
            await asyncio.sleep(next(times))
            return next(messages)

        await limit(app, timeout_s=0.05)(scope((b"content-length", b"1")), receive, ignore)

    asyncio.run(run())


def test_probes_pass_freely() -> None:
    asyncio.run(limit()(scope(method="GET"), whole(b""), ignore))
