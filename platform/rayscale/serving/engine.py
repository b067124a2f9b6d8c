"""One image in, one image out: what a model replica does with a request. No HTTP, no Ray.

Images are worked on in threads, so the event loop stays free for probes and cancellation. A request that
nobody waits for any more stops at its next strip or tile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from rayscale.errors import OutOfMemoryError
from rayscale.imaging import probe
from rayscale.inference.memory import Budget, check_memory, is_out_of_memory
from rayscale.models.builtin import builtin_names, read_spec
from rayscale.models.facts import describe
from rayscale.models.spec import INTERPOLATIONS
from rayscale.models.systems import systems
from rayscale.registry.opening import Found
from rayscale.serving.errors import UnavailableError
from rayscale.serving.jobs import Job, Result, check_size
from rayscale.serving.shelf import Loaded, Shelf
from rayscale.settings import get_settings

if TYPE_CHECKING:
    from rayscale.serving.settings import ServeSettings


log = logging.getLogger("ray.serve")


_LOADS = 2
"""Models looked up or loaded at once; built-in ones apart, whose requests wait, as they need neither network nor registry."""


class GivenUpError(Exception):
    """Raised inside a worker thread whose request was given up."""


class Engine:
    """Works on jobs in a bounded number of threads, with models from a :class:`Shelf`."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.shelf = Shelf(settings, watch=_stop_if_cancelled)
        self._workers = ThreadPoolExecutor(settings.threads, thread_name_prefix="upscale")
        # Listing and loading wait for MLflow and storage, which may hang; they must not take a place among the images,
        # nor from each other, nor from the models that come with rayscale.
        self._listing = ThreadPoolExecutor(1, thread_name_prefix="listing")
        self._registered = _Loader("registered", most=_LOADS)
        self._built_in = _Loader("built-in")
        self._memory = Budget()
        self._ready = False
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="models", daemon=True)

    def start(self) -> None:
        """Load the default model and begin following aliases. A default that cannot be loaded is tried
        again every ``refresh_s`` seconds: the replica lives, and is not ready."""
        self._load_default()
        self._keeper.start()

    def close(self) -> None:
        """Stop following aliases and take no more jobs."""
        self._closed.set()
        self._workers.shutdown(wait=False, cancel_futures=True)
        for threads in (self._listing, self._registered.threads, self._built_in.threads):
            threads.shutdown(wait=False, cancel_futures=True)

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
        return [_entry(found) for found in listed]

    async def upscale(self, job: Job) -> Result:
        """The enlarged image. Cancelling the awaiting task stops the work at its next strip or tile.

        Raises UnsupportedError, TooLargeError, InputError, BadParameterError, NotFoundError, UnavailableError,
        OutOfMemoryError.
        """
        loop = asyncio.get_running_loop()
        reference = job.model or self.settings.model
        loaded = self.shelf.peek(reference, job.options.scale)
        if loaded is None:
            self.shelf.recall(reference, job.options.scale)
            loader = self._built_in if reference in builtin_names() else self._registered
            loaded = await loader.load(
                (reference, job.options.scale),
                partial(self.shelf.get, reference, job.options.scale),
                self.settings.lookup_timeout_s,
            )
        cancelled = threading.Event()
        try:
            return await loop.run_in_executor(self._workers, self._work, job, loaded, cancelled)
        finally:
            cancelled.set()

    def _work(self, job: Job, loaded: Loaded, cancelled: threading.Event) -> Result:
        if cancelled.is_set():
            raise GivenUpError
        _current.event = cancelled
        try:
            return self._upscale(job, loaded)
        except Exception as error:
            if isinstance(error, OutOfMemoryError) or is_out_of_memory(error):
                raise OutOfMemoryError(
                    "the image does not fit into the memory of this replica; send it in parts or use the batch job"
                ) from error
            raise
        finally:
            _current.event = None

    def _upscale(self, job: Job, loaded: Loaded) -> Result:
        limits = get_settings()
        pipeline = self.shelf.pipeline(loaded, job.options)
        scale = pipeline.upscaler.scale
        header = probe(job.data)
        check_size(header, scale)
        needed = check_memory(header, scale, windowed=pipeline.upscaler.frames.windowed)
        with self._memory.reserve(needed, watch=_stop_if_cancelled):
            output = pipeline.run(job.data, max_pixels=limits.max_input_pixels)
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


def _entry(found: Found) -> dict[str, Any]:
    """A model in the list of ``GET /v1/models``."""
    version = found.version
    return {
        "reference": found.label,
        "name": found.label if version is None else version.name,
        "version": None if version is None else str(version.version),
        "aliases": [] if version is None else list(version.aliases),
        "weights_sha256": found.digest,
        **_facts(found),
    }


def _facts(found: Found) -> dict[str, Any]:
    """What ``GET /v1/models`` says of a model besides its name: system, scales, channels."""
    if found.label in INTERPOLATIONS:
        system = describe(found.label)
        return {
            "system": found.label,
            "scales": system["scales"],
            "scale_range": system["scale_range"],
            "channels": None,
        }
    spec = read_spec(found.label)[0] if found.version is None else found.version.spec
    known = systems().get(spec.system)  # None: registered by a later version
    any_channels = known is not None and known.network.any_channels
    return {
        "system": spec.system,
        "scales": list(spec.scales),
        "scale_range": None if known is None else known.network.scale_range,
        "channels": None if any_channels else spec.channels,
    }


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
                    f"{len(self._asked)} other models are being looked up or loaded; send it again after the time in "
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
