"""What a run would do and cost, without doing it: no worker starts, and nothing is written."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale import machine
from rayscale.batch.job import Job, open_job
from rayscale.batch.manifest import Manifest, Row
from rayscale.batch.plan import Method, Task
from rayscale.errors import InputError, RayscaleError, TooLargeError, UnsupportedError, quantity
from rayscale.fields import check_counts
from rayscale.options import DEFAULTS, Options
from rayscale.resampling import enlarged
from rayscale.settings import get_settings
from rayscale.storage import Entry, Store

if TYPE_CHECKING:
    from rayscale.imaging import Header

_HEADERS = 200  # read at most, spread over the listing
_READERS = 32
_HEADER_BYTES = 1 << 16
_WHOLE_BYTES = 8 << 20  # a file up to this size is read whole when its header is not at its start
_MEASURED_SIDE, _MEASURED_S = 96, 2.0


@dataclass(frozen=True)
class Forecast:
    """What a run would do. Sizes and times are estimates, and say of what.

    Attributes:
        total, todo, done, kept, missing, left, ignored, occupied: see ``plan.Plan``, as counts.
        source_bytes: of the inputs to do.
        megapixels: of the inputs to do; exact when ``headers`` is ``todo``.
        headers, unreadable: how many inputs were looked into, and how many of them will be refused: no work.
        unknown: of how many the header was not found; they count with the pixels per byte of the others.
        seconds: of the work by ``workers``, their start left out; ``seconds_from`` says what it is taken from.
        output_bytes: of the outputs; ``output_bytes_from`` says what it is taken from.
    """

    source: str
    target: str
    model: str
    digest: str
    scale: float
    total: int
    todo: int
    done: int
    kept: int
    missing: int
    left: int
    ignored: int
    occupied: int
    source_bytes: int
    megapixels: float
    headers: int
    unreadable: int
    unknown: int
    seconds: float
    seconds_from: str
    workers: int
    output_bytes: int
    output_bytes_from: str

    def to_dict(self) -> dict[str, Any]:
        """The forecast as ``--json`` shows it."""
        return asdict(self)


def forecast_bucket(
    source: str | Path,
    target: str | Path,
    *,
    model: str,
    options: Options = DEFAULTS,
    weights: str | Path | None = None,
    keys: str | Path | None = None,
    device: str = "auto",
    actors: int | None = None,
    limit: int | None = None,
    retry_failed: bool = True,
) -> Forecast:
    """What ``upscale_bucket`` would do with these arguments; raises as it does."""
    check_counts(actors=actors, limit=limit)
    job = open_job(source, target, model=model, options=options, weights=weights, keys=keys)
    manifest = Manifest(job.target, 0).load()
    plan = job.plan(manifest, retry_failed=retry_failed, limit=limit)
    earlier = [
        row
        for row in manifest.rows.values()
        if row.recipe == job.method.id and not row.error and row.seconds and row.megapixels
    ]
    sizes = _sizes(job, _spread(plan.todo))
    source_bytes = sum(task.entry.size for task in plan.todo)
    megapixels = _megapixels(sizes, source_bytes)
    workers = min(actors or _workers(device), max(1, len(plan.todo)))
    rate, rate_from = _rate(job, device, earlier) if plan.todo else (0.0, "nothing to do")
    growth, growth_from = _growth(earlier, job.method.scale)
    return Forecast(
        source=job.source.uri,
        target=job.target.uri,
        model=job.method.model,
        digest=job.method.digest,
        scale=job.method.scale,
        total=plan.total,
        todo=len(plan.todo),
        done=plan.done,
        kept=len(plan.kept),
        missing=len(plan.missing),
        left=plan.left,
        ignored=plan.ignored,
        occupied=plan.occupied,
        source_bytes=source_bytes,
        megapixels=round(megapixels, 6),
        headers=len(sizes),
        unreadable=sum(pixels == 0 for _, pixels in sizes),
        unknown=sum(pixels is None for _, pixels in sizes),
        seconds=round(rate * megapixels / workers, 1),
        seconds_from=rate_from,
        workers=workers,
        output_bytes=round(source_bytes * growth),
        output_bytes_from=growth_from,
    )


def _spread(tasks: list[Task]) -> list[Task]:
    """At most ``_HEADERS`` of the tasks, evenly over the listing."""
    count = min(len(tasks), _HEADERS)
    return [tasks[number * len(tasks) // count] for number in range(count)]


def _sizes(job: Job, tasks: Iterable[Task]) -> list[tuple[int, int | None]]:
    """Bytes and pixels of each; 0 where it is refused, None where the header was not found."""

    def read(task: Task) -> tuple[int, int | None]:
        try:
            header = _header(job.source, task.entry)
            _check_work(header, job.method)
            return task.entry.size, header.pixels
        except (UnsupportedError, TooLargeError):
            return task.entry.size, 0
        except InputError:  # damaged, or its header is none of the bytes that were read
            return task.entry.size, 0 if task.entry.size <= _WHOLE_BYTES else None
        except RayscaleError:
            return task.entry.size, None

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, tasks))


def _check_work(header: Header, method: Method) -> None:
    """Raise InputError for what the workers refuse by its header."""
    from rayscale.imaging.image import check_lossless
    from rayscale.imaging.limits import check_output, check_size

    if method.options.consistency:
        check_lossless(header.container)
    settings, scale = get_settings(), method.scale
    if header.container == "geotiff" and header.pixels >= settings.scene_pixels:
        check_size(header, settings.max_scene_pixels)
        pixels = enlarged(header.width, scale) * enlarged(header.height, scale)
        if pixels > settings.max_scene_pixels:
            raise TooLargeError(f"{pixels} pixels are over RAYSCALE_MAX_SCENE_PIXELS")
    else:
        check_size(header, settings.max_input_pixels)
        check_output(header, scale)


def _header(source: Store, entry: Entry) -> Header:
    """The header, wherever it lies in a TIFF or in a file that may be read whole; errors as in ``probe``."""
    from rayscale.imaging import probe

    head = source.read_range(entry.key, 0, _HEADER_BYTES)
    try:
        return probe(head)
    except InputError:
        if entry.size <= _HEADER_BYTES:
            raise
        if entry.size <= _WHOLE_BYTES:
            return probe(source.read(entry.key))
        return _tiff_header(source, entry, head)


def _tiff_header(source: Store, entry: Entry, head: bytes) -> Header:
    """By what the first directory itself holds. InputError for what is not a TIFF."""
    from rayscale.imaging import Header
    from rayscale.imaging.containers import geotiff
    from rayscale.imaging.containers.ifd import Ifd, first_offset

    offset = first_offset(head)
    if offset >= entry.size:
        raise InputError(f"the first directory of {entry.key} lies behind its end")
    ifd = Ifd.apart(head, source.read_range(entry.key, offset, _HEADER_BYTES))
    kind = "geotiff" if geotiff.is_tagged(ifd) else "tiff"
    return Header(kind, ifd.integer(256, 0), ifd.integer(257, 0), ifd.integer(277, 1), bits=8)


def _megapixels(sizes: list[tuple[int, int | None]], total: int) -> float:
    """Of all, by the pixels per byte of those whose header was read: so that one large file counts as such."""
    read = sum(size for size, pixels in sizes if pixels is not None)
    pixels = sum(pixels or 0 for _, pixels in sizes)
    return pixels / 1e6 * total / read if read else 0.0


def _rate(job: Job, device: str, earlier: list[Row]) -> tuple[float, str]:
    """Seconds of one worker per source megapixel, and where that comes from."""
    if earlier:
        rate = sum(row.seconds for row in earlier) / sum(row.megapixels for row in earlier)
        return (
            rate,
            f"{quantity(len(earlier), 'image')} done before with this model and these options",
        )
    return _measure_speed(job, device)


def _measure_speed(job: Job, device: str) -> tuple[float, str]:
    """By running the network here for some seconds as a worker would, on noise and without files."""
    import numpy as np
    import torch

    method, network = job.method, job.network
    channels = 3 if network.any_channels else network.channels
    upscaler = method.pipeline(network, device).upscaler
    noise = np.random.default_rng(0).integers(
        0, 256, (_MEASURED_SIDE, _MEASURED_SIDE, channels), dtype=np.uint8
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        upscaler.upscale_pixels(noise)
        start, runs = time.monotonic(), 0
        while time.monotonic() - start < _MEASURED_S:
            upscaler.upscale_pixels(noise)
            runs += 1
        seconds = time.monotonic() - start
    finally:
        torch.set_num_threads(threads)
    megapixels = runs * _MEASURED_SIDE**2 / 1e6
    where = (
        torch.cuda.get_device_name(upscaler.predictor.device)
        if upscaler.predictor.device.type == "cuda"
        else "one core"
    )
    return seconds / megapixels, f"a run of {seconds:.0f} s on {where} of {platform.node()}"


def _growth(earlier: list[Row], scale: float) -> tuple[float, str]:
    """Bytes of outputs per byte of sources, and where that comes from."""
    sources = sum(row.source_size for row in earlier)
    if sources:
        outputs = sum(row.output_size for row in earlier)
        return (
            outputs / sources,
            f"{quantity(len(earlier), 'image')} done before with this model and these options",
        )
    return scale**2, "as many bytes per pixel as the sources have"


def _workers(device: str) -> int:
    """As many as this machine would have."""
    import torch

    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return gpus or machine.cpu_count()
