"""One image in, one image out: what a model replica does with a request. No HTTP, no Ray.

Images are worked on in threads, so the event loop stays free for probes and cancellation. A request that
nobody waits for any longer stops at its next strip or tile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rayscale import machine
from rayscale.errors import OutOfMemoryError, quantity
from rayscale.imaging import Header, probe
from rayscale.inference.device import pick_device
from rayscale.inference.memory import Budget, check_memory, is_out_of_memory
from rayscale.inference.pipeline import Pipeline
from rayscale.models.builtin import builtin_names
from rayscale.options import Options
from rayscale.resampling import enlarged
from rayscale.serving.cards import card, entry
from rayscale.serving.errors import UnavailableError
from rayscale.serving.metrics import ReplicaMetrics, Snapshot, take_snapshot
from rayscale.serving.packs import PACK, Packs
from rayscale.serving.rates import Rates
from rayscale.serving.requests import EstimateRequest, Result, UpscaleRequest, check_size
from rayscale.serving.shelf import Loaded, Shelf
from rayscale.serving.turns import Turns
from rayscale.settings import get_settings

if TYPE_CHECKING:
    from rayscale.serving.settings import ServeSettings


log = logging.getLogger("ray.serve")


_LOADS = 2
"""Models looked up or loaded at once; built-in ones apart, whose requests wait, as they need neither network nor registry."""

_MEASURED = 64
"""Pixels of a side of the image by which a rate is measured that nothing else tells."""


_NICER = 4
"""How much nicer the threads that compute are than the rest of the process: refusals, probes and answers come first on a
busy node. Ray gives its processes 15; there is nothing beyond 19."""


class GivenUpError(Exception):
    """Raised inside a worker thread whose request was given up."""


class Engine:
    """Works on requests in a bounded number of threads, with models from a :class:`Shelf`."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.seen = ReplicaMetrics()
        self.shelf = Shelf(settings, watch=_give_way, loaded=self.seen.note_load)
        self.turns = Turns(settings.threads, watch=_stop_if_cancelled)
        # One for each image that may be here, with those that others let go first: `turns` says who works, not their queue.
        self._workers = ThreadPoolExecutor(
            2 * settings.threads + 2,
            thread_name_prefix="upscale",
            initializer=lambda: machine.be_nice(_NICER),
        )
        # Listing and loading wait for MLflow and storage, which may hang; they must not take a place among the images,
        # nor from each other, nor from the models that come with rayscale.
        self._listing = ThreadPoolExecutor(1, thread_name_prefix="listing")
        self._registered = _Loader("registered", most=_LOADS)
        self._built_in = _Loader("built-in")
        self._packs = Packs(_pack_size(settings))
        self._memory = Budget()
        self._rates = Rates()
        self._ready = False
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="models", daemon=True)

    def start(self) -> None:
        """Load the default model and begin following aliases. A default that cannot be loaded is tried
        again every ``refresh_s`` seconds: the replica lives, and is not ready."""
        self._load_default()
        self._keeper.start()

    def close(self) -> None:
        """Stop following aliases and take no more requests."""
        self._closed.set()
        self._workers.shutdown(wait=False, cancel_futures=True)
        for threads in (self._listing, self._registered.threads, self._built_in.threads):
            threads.shutdown(wait=False, cancel_futures=True)

    def name(self) -> str:
        """There is one process."""
        return "here"

    def places(self) -> int:
        """Those that it works on, and one that waits beside the models: a longer queue here would be first come first served."""
        return self.settings.threads + 1

    async def ready(self) -> bool:
        """Whether the default model is loaded."""
        return self._ready

    async def models(self) -> list[dict[str, Any]]:
        """What ``GET /v1/models`` lists; UnavailableError when the registry has never answered."""
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._listing, self.shelf.list)
        try:
            listed = await asyncio.wait_for(asyncio.shield(asked), self.settings.lookup_timeout_s)
        except TimeoutError:
            listed = self.shelf.last_list()
        return [entry(found) for found in listed]

    async def metrics(self) -> list[tuple[str, Snapshot]]:
        """What this replica counts."""
        seen = self.seen
        seen.loaded.set(len(self.shelf))
        seen.alias_age.set(self.shelf.age())
        seen.budget.set(self._memory.most)
        seen.held.set(self._memory.held)
        return [("upscaling", take_snapshot(seen.registry))]

    async def card(self, reference: str) -> dict[str, Any]:
        """What ``GET /v1/models/{name}`` says; the errors of :meth:`Shelf.find`."""
        asked = asyncio.get_running_loop().run_in_executor(
            self._listing, self.shelf.find, reference
        )
        try:
            found = await asyncio.wait_for(asyncio.shield(asked), self.settings.lookup_timeout_s)
        except TimeoutError:
            raise UnavailableError(
                f"the registry did not answer within {self.settings.lookup_timeout_s:g} s "
                "(RAYSCALE_SERVE_LOOKUP_TIMEOUT_S)"
            ) from None
        return card(found)

    async def estimate(self, asked: EstimateRequest) -> dict[str, Any]:
        """What an image would take and give; refused as the image would be. The errors of :meth:`upscale`."""
        loaded = await self._loaded(asked.model, asked.options.scale)
        work = partial(self._estimate, asked, loaded)
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    async def upscale(self, asked: UpscaleRequest) -> Result:
        """The enlarged image. Cancelling the awaiting task stops the work at its next strip or tile.

        Raises UnsupportedError, TooLargeError, InputError, BadParameterError, NotFoundError, UnavailableError,
        OutOfMemoryError.
        """
        loop = asyncio.get_running_loop()
        loaded = await self._loaded(asked.model, asked.options.scale)
        cancelled = threading.Event()
        try:
            return await loop.run_in_executor(self._workers, self._work, asked, loaded, cancelled)
        finally:
            cancelled.set()

    async def _loaded(self, model: str | None, scale: float | None) -> Loaded:
        reference = model or self.settings.model
        loaded = self.shelf.peek(reference, scale)
        if loaded is not None:
            return loaded
        self.shelf.recall(reference, scale)
        loader = self._built_in if reference in builtin_names() else self._registered
        return await loader.load(
            (reference, scale),
            partial(self.shelf.get, reference, scale),
            self.settings.lookup_timeout_s,
        )

    def _work(self, asked: UpscaleRequest, loaded: Loaded, cancelled: threading.Event) -> Result:
        if cancelled.is_set():
            raise GivenUpError
        _current.event = cancelled
        try:
            return self._upscale(asked, loaded)
        except Exception as error:
            if isinstance(error, OutOfMemoryError) or is_out_of_memory(error):
                raise OutOfMemoryError(
                    "the image does not fit into the memory of this replica; send it in parts or use the batch job"
                ) from error
            raise
        finally:
            _current.event = _current.pause = None

    def _upscale(self, asked: UpscaleRequest, loaded: Loaded) -> Result:
        limits = get_settings()
        pipeline = self.shelf.pipeline(loaded, asked.options)
        scale = pipeline.upscaler.scale
        header = probe(asked.data)
        check_size(header, scale)
        needed = check_memory(header, scale, windowed=pipeline.upscaler.frames.windowed)
        with (
            self._memory.reserve(needed, watch=_stop_if_cancelled),
            self.turns.take(asked.owner, asked.weight) as pause,
        ):
            _current.pause = pause
            output = pipeline.run(
                asked.data,
                max_pixels=limits.max_input_pixels,
                enlarge=partial(self._packs.enlarge, pipeline),
            )
        self._rates.note(
            _kind(loaded, asked.options, header),
            seconds=sum(output.seconds.values()),
            megapixels=_megapixels(header, scale),
            source_bytes=len(asked.data),
            output_bytes=len(output.data),
        )
        return Result(
            output.data,
            output.container,
            loaded.model.label,
            loaded.model.digest,
            scale,
            output.seconds,
            output.notes,
            output.residual,
            output.width,
            output.height,
            header.pixels,
            uncertainty=output.uncertainty,
        )

    def _estimate(self, asked: EstimateRequest, loaded: Loaded) -> dict[str, Any]:
        header = asked.header
        pipeline = self.shelf.pipeline(loaded, asked.options)
        scale = pipeline.upscaler.scale
        check_size(header, scale)
        needed = check_memory(header, scale, windowed=pipeline.upscaler.frames.windowed)
        kind = _kind(loaded, asked.options, header)
        rate = self._rates.find(kind)
        if rate is None:
            self._measure(kind, pipeline, header)
            rate = self._rates.find(kind)
            assert rate is not None
            source = "a small image of noise, measured for this"
        else:
            source = f"{quantity(rate.images, 'image')} of this kind"
        decoded = _decoded_bytes(header, scale)
        growth = rate.output_bytes / rate.source_bytes
        return {
            "model": loaded.model.label,
            "weights_sha256": loaded.model.digest,
            "scale": scale,
            "width": enlarged(header.width, scale),
            "height": enlarged(header.height, scale),
            "seconds": round(rate.seconds / rate.megapixels * _megapixels(header, scale), 3),
            "memory_bytes": needed,
            "output_bytes": decoded
            if asked.size is None
            else min(decoded, round(growth * asked.size)),
            "estimated_from": source,
        }

    def _measure(self, kind: object, pipeline: Pipeline, header: Header) -> None:
        """Run a small image of noise, so that there is a rate."""
        network = pipeline.upscaler.predictor.model
        channels = header.channels if network.any_channels else network.channels
        random = np.random.default_rng(0)
        noise = random.integers(0, 256, (_MEASURED, _MEASURED, channels), dtype=np.uint8)
        start = time.perf_counter()
        larger = pipeline.upscaler.upscale_pixels(noise)
        seconds = time.perf_counter() - start
        self._rates.note(
            kind,
            seconds=seconds,
            megapixels=larger.shape[0] * larger.shape[1] / 1e6,
            source_bytes=noise.nbytes,
            output_bytes=larger.nbytes,
        )

    def _load_default(self) -> None:
        try:
            self.shelf.get(self.settings.model)
        except Exception as error:
            log.error("the default model %r is not loaded: %s", self.settings.model, error)
        else:
            self._ready = True

    def _keep(self) -> None:
        while not self._closed.wait(self.settings.refresh_s):
            # A defect here must not end the following of aliases for the life of the replica.
            with suppress(Exception):
                if not self._ready:
                    self._load_default()
                self.shelf.refresh()


def _pack_size(settings: ServeSettings) -> int:
    """Pictures that go through a network together: never more than there are threads to bring them."""
    size = settings.pack
    if size is None:
        size = PACK if pick_device(settings.device).type == "cuda" else 1
    return min(size, settings.threads)


def _kind(loaded: Loaded, options: Options, header: Header) -> object:
    """Images of one kind take as long for each pixel."""
    return (
        loaded.model.digest,
        options.ensemble,
        options.consistency,
        options.scale,
        header.container,
    )


def _megapixels(header: Header, scale: float) -> float:
    return enlarged(header.width, scale) * enlarged(header.height, scale) * header.slices / 1e6


def _decoded_bytes(header: Header, scale: float) -> int:
    """Of the pixels of the output."""
    width, height = (enlarged(side, scale) for side in (header.width, header.height))
    return replace(header, width=width, height=height).decoded_bytes


class _Loader:
    """Threads that find and load models; requests for the same one share its load."""

    def __init__(self, name: str, most: int | None = None) -> None:
        self.threads = ThreadPoolExecutor(_LOADS, thread_name_prefix=name)
        self._most = most
        self._asked: dict[tuple[str, float | None], asyncio.Future[Loaded]] = {}

    async def load(
        self, key: tuple[str, float | None], get: Callable[[], Loaded], timeout_s: float
    ) -> Loaded:
        """What ``get`` returns for the reference and scale ``key``. One that takes longer goes on, so that the model is there
        for a later request.

        Raises UnavailableError when it does, or when ``most`` others are at work: a place in their queue would be one
        less for requests whose model is loaded.
        """
        asked = self._asked.get(key)
        if asked is None:
            if self._most is not None and len(self._asked) >= self._most:
                raise UnavailableError(
                    f"as many models as may be ({len(self._asked)}) are being looked up or loaded; send it again after the time in "
                    "Retry-After"
                )
            asked = asyncio.get_running_loop().run_in_executor(self.threads, get)
            self._asked[key] = asked
            asked.add_done_callback(partial(self._done, key))
        try:
            return await asyncio.wait_for(asyncio.shield(asked), timeout_s)
        except TimeoutError:
            raise UnavailableError(
                f"the model was not there within {timeout_s:g} s (RAYSCALE_SERVE_LOOKUP_TIMEOUT_S); send it again "
                "after the time in Retry-After"
            ) from None

    def _done(self, key: tuple[str, float | None], asked: asyncio.Future[Loaded]) -> None:
        del self._asked[key]
        if not asked.cancelled():
            asked.exception()  # told to those who waited; nobody else asks


# Told by its thread, not by the upscaler, whose request is worked on: upscalers are shared.
_current = threading.local()


def _stop_if_cancelled() -> None:
    """End the work of a request that was given up."""
    event = getattr(_current, "event", None)
    if event is not None and event.is_set():
        raise GivenUpError


def _give_way() -> None:
    """Between two strips: end the work of a request that was given up, and let others go first whose turn it is."""
    _stop_if_cancelled()
    pause = getattr(_current, "pause", None)
    if pause is not None:
        pause()
