"""The worker of a batch: upscales its inputs one after the other and makes a row of each.

Inputs are read ahead and outputs written behind by threads while the network computes. Whatever an input does becomes
a failure row; only the death of the process is left to the driver.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from rayscale import strictjson
from rayscale.batch.inputs import ChangedError
from rayscale.batch.manifest import Row
from rayscale.batch.outputs import Placed, Slot, find_slot
from rayscale.batch.plan import Method, Task, start_row
from rayscale.batch.scenes import SceneWork, notes_beside
from rayscale.errors import InputError, RayscaleError, TooLargeError, UnsupportedError
from rayscale.settings import get_settings
from rayscale.storage import Entry, Store

if TYPE_CHECKING:
    from rayscale.imaging import Image
    from rayscale.inference import Upscaled
    from rayscale.inference.pipeline import Pipeline

logger = logging.getLogger(__name__)

_BYTES_PER_PIXEL = 8  # RGBA in 16 bit, uncompressed: no usable input has more
_AHEAD = 4  # inputs read, and outputs written, beside the one that is computed; 1 when one of the block is
_LARGE_BYTES = 1 << 20  # as large as this, because each is held in memory
# Of the memory of a worker: what takes more than that part of it is alone.
_LARGE_SHARE = 8 * _AHEAD
# Of a picture that shares its way through the network: larger ones gain nothing.
_SMALL_PIXELS = 64 * 64
_PACK_PIXELS = 1 << 15  # of those together


@dataclass(frozen=True)
class SharedScene:
    """Not yet an outcome: an input that all workers share, by windows.

    Attributes:
        scene: its key.
        megapixels: of the source.
    """

    scene: str
    windows: int
    megapixels: float

    def to_json(self) -> str:
        """One line of ASCII."""
        return strictjson.dumps(asdict(self))


def parse_outcome(text: str) -> Row | SharedScene:
    """What a worker made of a task, from its JSON."""
    values = json.loads(text)
    return SharedScene(**values) if "scene" in values else Row.from_json(text)


@dataclass
class _Item:
    """One task on its way: ``image`` until it is enlarged, ``larger`` until it is written; finished, well or not, with neither."""

    task: Task
    row: Row
    image: Image | None = None
    larger: Upscaled | None = None
    data: bytes | None = (
        None  # of a large picture, which is decoded alone and when its turn has come
    )
    slot: Slot | None = None
    shared: SharedScene | None = None
    seconds: float = 0.0


@dataclass
class Worker:
    """Upscales tasks from ``source`` to the same keys of ``target``; never raises an Exception.

    Use as a context: its threads end with it.
    """

    source: Store
    target: Store
    pipeline: Pipeline
    method: Method
    overwrite: bool = False
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2 * _AHEAD))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def process(self, tasks: Iterable[Task]) -> list[Row | SharedScene]:
        """One outcome for every task, in their order."""
        tasks = list(tasks)
        ahead = 1 if any(task.entry.size > _LARGE_BYTES for task in tasks) else _AHEAD
        rows: list[Row | SharedScene] = []
        writing: deque[Future[Row | SharedScene]] = deque()
        for items in self._pack(self._read_ahead(tasks, ahead)):
            alone = items[0].data is not None
            if alone:
                rows += [future.result() for future in writing]
                writing.clear()
            self._compute(items)
            for item in items:
                if (
                    len(writing) > ahead
                ):  # not before the next is computed: that is what they overlap with
                    rows.append(writing.popleft().result())
                writing.append(self._threads.submit(self._write, item))
            if alone:
                rows.append(writing.popleft().result())
        return rows + [future.result() for future in writing]

    def _read_ahead(self, tasks: list[Task], ahead: int) -> Iterator[_Item]:
        waiting = deque(tasks)
        reading: deque[Future[_Item]] = deque()
        while waiting or reading:
            while waiting and len(reading) <= ahead:
                reading.append(self._threads.submit(self._read, waiting.popleft()))
            yield reading.popleft().result()

    def _pack(self, items: Iterable[_Item]) -> Iterator[list[_Item]]:
        """Small pictures of one shape and type that follow one another, together; the others alone."""
        pack: list[_Item] = []
        for item in items:
            if pack and (
                self.method.options.consistency  # whose residual is that of one picture
                or not (_alike(pack[0], item) and self._fits(len(pack) + 1, item))
            ):
                yield pack
                pack = []
            pack.append(item)
        if pack:
            yield pack

    def _fits(self, count: int, item: _Item) -> bool:
        assert item.image is not None
        return count * item.image.height * item.image.width <= _PACK_PIXELS

    def _read(self, task: Task) -> _Item:
        item = _Item(task, start_row(task.entry, self.method))

        def read() -> None:
            from rayscale.imaging.sidecars import tags_of

            upscaler = self.pipeline.upscaler
            slot = find_slot(self.target, task, self.method, overwrite=self.overwrite)
            if isinstance(slot, Placed):  # by a driver that died before it wrote the row
                item.row = fill(item.row, slot)
                return
            data = self._data(task)
            if isinstance(data, SharedScene):
                item.shared = data
                return
            notes = notes_beside(self.source, task, tags_of(data), upscaler)
            item.row = replace(item.row, notes=notes)
            from rayscale.imaging import probe
            from rayscale.imaging.limits import check_output
            from rayscale.inference.memory import budget, check_memory, picture_bytes

            header = probe(data)
            check_output(header, upscaler.scale)
            item.row, item.slot = replace(item.row, megapixels=header.pixels / 1e6), slot
            check_memory(header, upscaler.scale, windowed=upscaler.frames.windowed)
            if picture_bytes(header, upscaler.scale) > budget() // _LARGE_SHARE:
                item.data = data
            else:
                item.image = self.pipeline.read(data)

        return _guard(item, read)

    def _data(self, task: Task) -> bytes | SharedScene:
        """The bytes of an input, unless all workers share it."""
        entry, least = task.entry, get_settings().scene_pixels
        is_tiff = entry.key.lower().endswith((".tif", ".tiff"))
        if not is_tiff or entry.size <= _LARGE_BYTES:
            data = _read_source(self.source, entry)
            # Size tells nothing of a sparse or well compressed scene; its header does.
            if not is_tiff or not _has_pixels(data, least):
                return data
        from rayscale.imaging.scene import is_scene
        from rayscale.inference import windows_of

        upscaler = self.pipeline.upscaler
        work = SceneWork(self.source, self.target, self.method, task)
        with ExitStack() as stack:
            stack.callback(work.forget)
            if self.pipeline.keeps_tiff and is_scene(work.path):
                work.notes_beside(upscaler)
                with work.open() as scene:
                    if (pixels := scene.height * scene.width) >= least:
                        if work.alone:
                            stack.pop_all()  # the copy is needed again for the windows
                        windows = len(windows_of(scene, upscaler))
                        return SharedScene(entry.key, windows, pixels / 1e6)
            _check_bytes(entry)
            return work.path.read_bytes()

    def _compute(self, items: list[_Item]) -> None:
        if len(items) > 1:
            start = time.monotonic()
            try:
                images = [item.image for item in items if item.image]
                larger = self.pipeline.enlarge_many(images)
            except Exception as error:
                logger.debug("a pack failed, each of it is tried alone: %s", error)
            else:
                for item, image in zip(items, larger, strict=True):
                    item.image, item.larger = None, image
                    item.seconds += (time.monotonic() - start) / len(items)
                return
        for item in items:

            def compute(item: _Item = item) -> None:
                if item.data is not None:
                    item.image, item.data = self.pipeline.read(item.data), None
                if item.image is not None:
                    item.larger, item.image = self.pipeline.enlarge(item.image), None

            _guard(item, compute)

    def _write(self, item: _Item) -> Row | SharedScene:
        def write() -> None:
            if item.larger is None or item.slot is None:
                return
            from rayscale.imaging import heed_name

            output = self.pipeline.write(item.larger)
            image = item.larger.image
            notes = item.row.notes + image.notes + heed_name(item.task.entry.key, image.container)
            item.row = replace(item.row, notes=notes)
            item.row = fill(item.row, item.slot.write(output, item.row.megapixels))

        _guard(item, write)
        item.larger = None
        return item.shared or replace(item.row, seconds=round(item.seconds, 3))


def _alike(one: _Item, other: _Item) -> bool:
    """Whether two pictures may go through the network together."""
    a, b = one.image, other.image
    if (
        a is None
        or b is None
        or any(x.levels or x.missing or x.labels or x.pixels.ndim != 3 for x in (a, b))
    ):
        return False
    small = a.height * a.width <= _SMALL_PIXELS
    return small and a.pixels.shape == b.pixels.shape and a.pixels.dtype == b.pixels.dtype


def fill(row: Row, placed: Placed) -> Row:
    """The row of an input whose output is in its place."""
    return replace(
        row,
        output_etag=placed.etag,
        output_size=placed.size,
        output_sha256=placed.sha256,
        megapixels=placed.megapixels,
    )


def describe_failure(error: Exception) -> tuple[str, str]:
    """Class and reason of what an input raised, for its row."""
    from rayscale.inference.memory import is_out_of_memory

    if isinstance(error, RayscaleError):
        return error.code, str(error)
    short = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:500]
    if is_out_of_memory(error):
        return "out_of_memory", short
    logger.error("unexpected failure of one input", exc_info=error)
    return "error", short


def _guard(item: _Item, action: Callable[[], None]) -> _Item:
    """Run one stage of ``item``; what it raises becomes the failure of its row."""
    start = time.monotonic()
    try:
        action()
    except Exception as error:
        code, message = describe_failure(error)
        item.row = replace(item.row, error=code, message=message)
    if item.row.error:
        item.image = item.larger = item.data = None
    item.seconds += time.monotonic() - start
    return item


def _read_source(source: Store, entry: Entry) -> bytes:
    from rayscale.imaging import EXTENSIONS, is_image, is_nameless

    if entry.size == 0:
        raise InputError("the object is empty (or a link to nothing)")
    if not is_image(entry.key, partial(source.read_range, entry.key, 0)):
        what = "the content" if is_nameless(entry.key) else PurePosixPath(entry.key).suffix
        raise UnsupportedError(
            f"{what} is not an image format that is read; use one of {', '.join(sorted(EXTENSIONS))}"
        )
    _check_bytes(entry)
    data, now = source.read_version(entry.key)
    if now != entry.etag:
        raise ChangedError.between(entry.etag, now)
    return data


def _has_pixels(data: bytes, least: int) -> bool:
    from rayscale.imaging import probe

    try:
        return probe(data).pixels >= least
    except InputError:
        return False  # the reader says what is wrong


def _check_bytes(entry: Entry) -> None:
    limit = get_settings().max_input_pixels * _BYTES_PER_PIXEL
    if entry.size > limit:
        raise TooLargeError(
            f"{entry.size} bytes are more than {limit}, the bytes of RAYSCALE_MAX_INPUT_PIXELS pixels"
        )
