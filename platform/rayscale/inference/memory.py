"""Memory as a limit of its own: what a picture will take, known from its header; what a process may take; and how a full
memory shows itself.

The figures are measured by ``benchmarks/request_memory.py``, which names any that an estimate stays below.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rayscale import machine
from rayscale.errors import TooLargeError
from rayscale.resampling import enlarged
from rayscale.settings import MIB, get_settings

if TYPE_CHECKING:
    from rayscale.imaging import Header

# The CPU allocator of torch has no class of its own for it, nor have the libraries below torch.
_SIGNS = (
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
    "allocate memory",
    "could not create a primitive",
)

# Bytes held at the peak of writing, for each byte of the decoded output, which is one of them. The rest is
# the encoder's: its output, which noise does not shrink, and copies of it.
_WRITING = {"png": 3.0, "jpeg": 3.0, "webp": 15.0, "tiff": 3.0, "nifti": 4.0, "nifti-gz": 4.0}
_WRITING_OTHERS = 6.0  # GeoTIFF and DICOM: masks, filled pixels, and their file in memory
_READING = 2.0  # pixels beside what the decoder needs, per byte of the decoded input
_STRIPS = (
    96 * MIB
)  # of a network of 64 filters; a large one takes more on its strips, which do not grow with the picture
_FLOATS = 160 * MIB  # of a window, whose local means are compared
_WINDOW = 640 * MIB  # the same with self-ensemble or back-projection

_SHARE = 0.75
"""Of the memory of the container or machine, for all processes that upscale together; the rest is for Ray and the system."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory was asked for which is not there, so that less work at once may succeed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def picture_bytes(header: Header, scale: float) -> int:
    """Bytes that the picture of ``header``, read and enlarged, takes while it is written: it grows with the picture."""
    writing = _WRITING.get(header.container, _WRITING_OTHERS)
    return int(_READING * header.decoded_bytes + writing * _enlarged_bytes(header, scale))


def working_bytes(header: Header, scale: float, *, windowed: bool = False) -> int:
    """Bytes that reading, enlarging and writing the picture of ``header`` takes at its peak, on top of the process.

    Args:
        windowed: with self-ensemble or back-projection, which go window by window.
    """
    # The floats of a window are at most 48 bytes for each of the output.
    window = min(_WINDOW if windowed else _FLOATS, 48 * _enlarged_bytes(header, scale))
    return picture_bytes(header, scale) + _STRIPS + window


def _enlarged_bytes(header: Header, scale: float) -> int:
    width, height = (enlarged(side, scale) for side in (header.width, header.height))
    return replace(header, width=width, height=height).decoded_bytes


def budget() -> int:
    """Bytes that one process may take for pictures: ``RAYSCALE_MEMORY_BYTES``, or its share of the container or machine.

    There is a process for each CPU of the container, as batch workers and replicas are made.
    """
    return get_settings().memory_bytes or int(_SHARE * memory_limit() / machine.cpu_count())


def check_memory(header: Header, scale: float, *, windowed: bool = False) -> int:
    """:func:`working_bytes`, if they are within the budget.

    Raises:
        TooLargeError: names both.
    """
    needed, most = working_bytes(header, scale, windowed=windowed), budget()
    if needed > most:
        raise TooLargeError(
            f"{header.width}x{header.height} pixels of {header.container.upper()} at x{scale:g} take about "
            f"{needed // MIB} MiB of memory, over the {most // MIB} MiB that a worker may take; raise "
            "RAYSCALE_MEMORY_BYTES, give workers more memory, or cut the image"
        )
    return needed


@cache
def memory_limit(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of the container (the least limit of its control groups, versions 1 and 2) or else of the machine."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for controllers, group in _groups(own):
        if controllers == "":
            base, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        # A container may see its own group as the root of all, or under its full path; every group above limits it too.
        parts = Path(group.lstrip("/")).parts
        for depth in range(len(parts) + 1):
            with_limit = base.joinpath(*parts[:depth], name)
            try:
                text = with_limit.read_text().strip()
            except OSError:
                continue
            if text.isdigit() and int(text) > 0:
                limits.append(int(text))
    return min(limits)


def _groups(own: Path) -> Iterator[tuple[str, str]]:
    """Controllers and path of each control group of this process; controllers are empty for version 2."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        yield controllers, group


class Budget:
    """The memory of this process, shared among its threads: who has no room waits for its turn, first come first served."""

    def __init__(self, most: int | None = None) -> None:
        self.most = budget() if most is None else most
        self.held = 0
        self._changed = threading.Condition()
        self._waiting: list[object] = []

    @contextmanager
    def reserve(self, size: int, watch: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold ``size`` bytes, alone when they are more than all; ``watch`` is called while waiting, and may raise."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                while self._waiting[0] is not turn or (self.held and self.held + size > self.most):
                    self._changed.wait(0.2)
                    if watch is not None:
                        watch()
                self.held += size
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.held -= size
                self._changed.notify_all()
