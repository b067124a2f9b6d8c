"""What the page shows, kept for a while: source, enlargement and what is known of both, found by every ingress.

A store of ``rayscale.storage`` (a folder, or object storage where ingresses run on several machines), bounded in bytes and
seconds. The name of a result begins with the second at which it ends, so a listing alone tells what to delete.
"""

from __future__ import annotations

import logging
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from os import getuid
from pathlib import Path
from typing import Any

from rayscale import strictjson
from rayscale.errors import NotFoundError, RayscaleError, TooLargeError
from rayscale.serving.settings import ServeSettings
from rayscale.storage.store import Store
from rayscale.storage.uri import connect

log = logging.getLogger("ray.serve")

NAME = re.compile(r"[0-9a-f]{10}-[A-Za-z0-9_-]{22}")
_RECORD = "record.json"

LAYERS = ("before", "after", "uncertainty")
"""The files of a result."""


@dataclass(frozen=True)
class Record:
    """What is known of a result.

    Attributes:
        owner: who may see it, as ``keys.owner_of`` names callers with a key; "" for everyone.
        containers: of each of its files.
        facts: what the page shows.
        slices: the results that it is made of, in their order, where it is a series; it has no files of its own.
    """

    id: str
    owner: str
    containers: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)
    slices: list[str] = field(default_factory=list)


class Results:
    """The results of a service with ``settings``."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.store: Store = connect(settings.results or _default_folder())
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def put(
        self,
        files: Mapping[str, tuple[bytes, str]],
        owner: str,
        facts: Mapping[str, Any],
        slices: Sequence[str] = (),
    ) -> Record:
        """Keep files, each its bytes and container, by the name of their layer; the oldest results make room.
        ``slices`` are results that this one joins.

        Raises TooLargeError for more bytes than all results may have, and the errors of a store.
        """
        size = sum(len(data) for data, _ in files.values())
        if size > self.settings.results_bytes:
            raise TooLargeError(
                f"source and result have {size} bytes, over the {self.settings.results_bytes} that the page keeps "
                "(RAYSCALE_SERVE_RESULTS_BYTES); send it to /v1/upscale"
            )
        self._make_room(size)
        ends = int(time.time() + self.settings.results_s)
        name = f"{ends:010x}-{secrets.token_urlsafe(16)}"
        containers = {layer: container for layer, (_, container) in files.items()}
        record = Record(name, owner, containers, dict(facts), list(slices))
        for layer, (data, _) in files.items():
            self.store.write(f"{name}/{layer}", data)
        # Last: a result is there when its record is.
        self.store.write(f"{name}/{_RECORD}", strictjson.dumps(asdict(record)).encode())
        self._watch_end()
        return record

    def get(self, name: str, owner: str) -> Record:
        """What is known of a result. Raises NotFoundError for one that has ended, or is of somebody else."""
        if NAME.fullmatch(name) and end_of(name) > time.time():
            with suppress(NotFoundError):
                record = Record(**strictjson.loads(self.store.read(f"{name}/{_RECORD}")))
                if record.owner == owner:
                    return record
        raise NotFoundError(
            f"this result is gone: the page keeps results for {self.settings.results_s:g} s (RAYSCALE_SERVE_RESULTS_S), "
            "less when there are many; send the image again"
        )

    def read(self, record: Record, layer: str) -> bytes:
        """One file of a result. Raises NotFoundError where it has none such."""
        if layer not in record.containers:
            raise NotFoundError(f"this result has no {layer}, only {', '.join(record.containers)}")
        return self.store.read(f"{record.id}/{layer}")

    def _make_room(self, size: int) -> bool:
        """Delete what has ended, then the oldest until ``size`` bytes more fit; whether any is left."""
        sizes: dict[str, int] = {}
        keys: dict[str, list[str]] = {}
        for entry in self.store.list():
            name = entry.key.partition("/")[0]
            if NAME.fullmatch(name):
                sizes[name] = sizes.get(name, 0) + entry.size
                keys.setdefault(name, []).append(entry.key)
        total, now = sum(sizes.values()) + size, time.time()
        for name in sorted(sizes):
            if end_of(name) > now and total <= self.settings.results_bytes:
                break
            # The record first: without it nobody looks for the rest.
            for key in sorted(keys[name], key=lambda key: not key.endswith(_RECORD)):
                self.store.delete(key)
            self.store.tidy(name, folders=True)
            total -= sizes[name]
        return total > size

    def _watch_end(self) -> None:
        """A result ends also where nobody makes another; one timer waits for all."""
        with self._lock:
            if self._timer is None:
                self._timer = threading.Timer(self.settings.results_s + 1, self._sweep)
                self._timer.daemon = True
                self._timer.start()

    def _sweep(self) -> None:
        with self._lock:
            self._timer = None
        try:
            if self._make_room(0):
                self._watch_end()
        except (RayscaleError, OSError) as error:
            log.warning("results of the page that have ended were not deleted: %s", error)


def end_of(name: str) -> int:
    """The second since 1970 at which the result of this name ends."""
    return int(name[:10], 16)


def _default_folder() -> Path:
    """One for all processes of this user on this machine, which nobody else may read."""
    folder = Path(tempfile.gettempdir()) / f"rayscale-results-{getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != getuid() or status.st_mode & 0o077 or folder.is_symlink():
        raise PermissionError(
            f"{folder} must belong to this user alone; remove it, or set RAYSCALE_SERVE_RESULTS"
        )
    return folder
