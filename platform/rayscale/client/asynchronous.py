"""The client of a service for asyncio; :mod:`synchronous` is the same without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from rayscale.client import calls
from rayscale.client.calls import Answer, Call, ServiceError
from rayscale.client.retries import Retries
from rayscale.files import replacing

Progress = Callable[[int, int], None]
"""Called with the bytes of the answer that came, and of all."""


class AsyncClient:
    """A connection to a service.

    >>> async with rayscale.AsyncClient("https://images.example.org", key="rk_...") as service:
    ...     await service.upscale("small.png", "large.png", scale=2)

    Args:
        address: of the service, with the path under which a proxy shows it; None: ``RAYSCALE_SERVER`` of the environment.
        key: None: ``RAYSCALE_KEY`` of the environment, or none.
        timeout_s: without a byte.
        attempts: of a request whose service is full (429), restarts (503) or cannot be reached.
        transport: of httpx, for tests.

    Every method raises :class:`ServiceError` for what the service refuses.
    """

    def __init__(
        self,
        address: str | None = None,
        key: str | None = None,
        *,
        timeout_s: float = 150.0,
        attempts: int = 6,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            transport=transport, **calls.settings(address, key, timeout_s)
        )
        self._attempts = attempts

    async def upscale(
        self,
        source: str | Path | bytes,
        target: str | Path | None = None,
        *,
        model: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Answer:
        """Enlarge an image; options as of :class:`rayscale.Options`.

        Args:
            source: a path, or the bytes of a file.
            target: written as the answer comes, whole or not at all, in the format of its ending; without one the answer
                holds the bytes.
        """
        call = calls.upscale(source, model, options, target=target)
        async with self._stream(call) as response:
            if target is None:
                return calls.read_answer(response, await response.aread())
            most, come = int(response.headers.get("content-length", 0)), 0
            with replacing(target) as file:
                async for piece in response.aiter_bytes():
                    file.write(piece)
                    come += len(piece)
                    if progress is not None:
                        progress(come, most)
            return calls.read_answer(response, b"")

    async def estimate(
        self, source: str | Path | bytes, *, model: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """What an image would take and give; the beginning of a file is enough where its header stands there."""
        return await self._json(calls.upscale(source, model, options, "estimate"))

    async def upload(self, source: str | Path, progress: Progress | None = None) -> dict[str, str]:
        """Send a file of any size in parts, straight to the object storage of the service.

        Returns ``source``, for a batch, and ``place``, below which its target may be and :meth:`fetch` reads.
        """
        path, come = Path(source), 0
        size = path.stat().st_size
        begun = await self._json(calls.begin_upload(path.name, size))
        etags: list[str] = []
        # Without the key, which is nothing to the object storage.
        async with httpx.AsyncClient(timeout=self._http.timeout) as plain:
            with path.open("rb") as file:
                for address in begun["addresses"]:
                    piece = file.read(begun["part_bytes"])
                    etags.append(await self._put(plain, address, piece))
                    come += len(piece)
                    if progress is not None:
                        progress(come, size)
        ended = await self._json(calls.complete_upload(begun["id"], etags))
        return {"source": ended["source"], "place": begun["place"]}

    async def fetch(self, uri: str, target: str | Path) -> None:
        """Write a file below your place, such as a result of a batch, to ``target``, whole or not at all."""
        async with self._stream(calls.get("/v1/files", uri=uri)) as response:
            address = response.headers["location"]
        async with (
            httpx.AsyncClient(timeout=self._http.timeout) as plain,
            plain.stream("GET", address) as response,
        ):
            if not response.is_success:
                await response.aread()
            calls.check(response)
            with replacing(target) as file:
                async for piece in response.aiter_bytes():
                    file.write(piece)

    async def models(self) -> list[dict[str, Any]]:
        """The models that can be asked for."""
        return list((await self._json(calls.get("/v1/models")))["models"])

    async def model(self, name: str) -> dict[str, Any]:
        """The card of a model."""
        return await self._json(calls.get(calls.model_path(name)))

    async def submit(
        self,
        source: str,
        target: str,
        *,
        model: str | None = None,
        keys: list[str] | None = None,
        limit: int | None = None,
        overwrite: bool = False,
        webhook: str | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Start a batch from a place in object storage to another; see the reference of HTTP for what comes back."""
        more = {
            "keys": keys,
            "limit": limit,
            "overwrite": overwrite or None,
            "webhook": webhook,
            "idempotency_key": idempotency_key,
        }
        return await self._json(calls.submit(source, target, model, options, more))

    async def batches(self, limit: int = 50) -> list[dict[str, Any]]:
        """Yours, the latest first."""
        return list((await self._json(calls.get("/v1/batches", limit=limit)))["batches"])

    async def batch(self, batch: str) -> dict[str, Any]:
        """A batch as it is at the moment."""
        return await self._json(calls.get(calls.batch_path(batch)))

    async def watch(self, batch: str) -> AsyncIterator[dict[str, Any]]:
        """A batch at every change of it, until it has ended; goes on where a connection is lost."""
        headers = {"Accept": "text/event-stream"}
        while True:
            lines: list[str] = []
            try:
                async with self._stream(
                    Call("GET", calls.batch_path(batch), headers=headers)
                ) as response:
                    async for line in response.aiter_lines():
                        if line:
                            lines.append(line)
                            continue
                        told, lines = calls.read_event(lines), []
                        if told is not None:
                            yield told
                            if told["state"] in calls.ENDED:
                                return
            except ServiceError as error:
                if error.status:
                    raise
                await asyncio.sleep(1.0)

    async def cancel(self, batch: str) -> dict[str, Any]:
        """End a batch; what is done stays done."""
        return await self._json(Call("DELETE", calls.batch_path(batch)))

    async def retry(self, batch: str) -> dict[str, Any]:
        """Work once more on what failed or was left."""
        return await self._json(Call("POST", calls.batch_path(batch, "/retry")))

    async def health(self) -> dict[str, Any]:
        """State and versions of the service."""
        return await self._json(calls.get("/healthz"))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _put(self, plain: httpx.AsyncClient, address: str, piece: bytes) -> str:
        """Send a part; its ETag."""
        retries = Retries(self._attempts)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await plain.put(address, content=piece)
            except httpx.TransportError as error:
                outcome = error
            wait = retries.wait(outcome)
            if wait is not None:
                await asyncio.sleep(wait)
            elif isinstance(outcome, httpx.Response):
                calls.check(outcome)
                return outcome.headers["etag"]
            else:
                raise calls.unreachable("the object storage", outcome) from outcome

    async def _json(self, call: Call) -> dict[str, Any]:
        async with self._stream(call) as response:
            await response.aread()
            told: dict[str, Any] = response.json()
            return told

    @asynccontextmanager
    async def _stream(self, call: Call) -> AsyncIterator[httpx.Response]:
        """An answer other than a refusal, its body not read yet."""
        retries = Retries(self._attempts)
        while True:
            request = self._http.build_request(
                call.method,
                call.path,
                params=call.params,
                content=call.content,
                headers=call.headers,
            )
            try:
                response = await self._http.send(request, stream=True)
            except httpx.TransportError as error:
                wait = retries.wait(error)
                if wait is None:
                    raise calls.unreachable(self._http.base_url, error) from error
            else:
                wait = retries.wait(response)
                if wait is None:
                    try:
                        if not response.is_success:
                            await response.aread()
                        calls.check(response)
                        yield response
                    except httpx.TransportError as error:
                        raise calls.unreachable(self._http.base_url, error) from error
                    finally:
                        await response.aclose()
                    return
                await response.aclose()
            await asyncio.sleep(wait)
