"""One driver per target: a lease in the target itself, taken over from a driver that died.

Lease objects are ``_rayscale/lease/<generation>.json``; the highest generation holds. Each generation is
created with if-absent, so that of several drivers one wins, and is written afterwards by its holder only. No
clocks are compared: a driver is dead when its heartbeat was seen not to move for a while.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Any, ClassVar, Self

from rayscale import machine
from rayscale.errors import RayscaleError
from rayscale.storage import Store

logger = logging.getLogger(__name__)

BEAT_S = 2.0
SILENCE_S = 15.0
"""A holder whose heartbeat does not move for so long is taken for dead."""

_FOLDER = "_rayscale/lease/"


class BusyError(RayscaleError):
    """Another driver works on the same target."""

    code: ClassVar[str] = "busy"


class Lease:
    """Held from ``__enter__`` to ``__exit__``; ``generation`` grows with every holder.

    Entering raises BusyError while another driver lives. After a takeover (this process was stopped for
    long) ``lost`` is true: the caller stops, and whatever it still writes counts as older than its successor's.
    """

    def __init__(
        self, store: Store, *, beat_s: float = BEAT_S, silence_s: float = SILENCE_S
    ) -> None:
        self.generation = 0
        self.lost = False
        self._store, self._beat_s, self._silence_s = store, beat_s, silence_s
        self._owner = {
            "host": socket.gethostname(),
            "machine": machine.identity(),
            "space": _pid_space(),
            "pid": os.getpid(),
        }
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        held = self._newest()
        if held and not self._is_free(held):
            self._watch(held)
        self.generation = held + 1
        content = self._content("held")
        if self._store.write(self._key(self.generation), content, if_absent=True) is None:
            raise self._busy(self.generation)
        newest = self._newest()
        if newest != self.generation:  # others came and went between our listing and our writing
            self._store.delete(self._key(self.generation))
            raise self._busy(newest)
        for entry in list(self._store.list(_FOLDER)):
            if _generation(entry.key) < self.generation:
                self._store.delete(entry.key)
        self._thread = threading.Thread(target=self._beat_for_ever, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self.lost:
            try:
                # Kept, not deleted: generations must go on growing.
                self._store.write(self._key(self.generation), self._content("released"))
            except RayscaleError as failure:
                logger.warning("the lease was not released and will run out: %s", failure)

    def _beat_for_ever(self) -> None:
        while not self._stop.wait(self._beat_s):
            try:
                if self._newest() > self.generation:
                    self.lost = True
                    return
                self._beats += 1
                self._store.write(self._key(self.generation), self._content("held"))
            except RayscaleError as error:
                logger.warning("no heartbeat: %s", error)

    def _is_free(self, generation: int) -> bool:
        """Whether the holder gave it back, or was a process of this machine that is no more."""
        holder = self._read(generation)
        if holder.get("state") == "released":
            return True
        here = all(holder.get(key) == self._owner[key] for key in ("host", "machine", "space"))
        return here and not _is_running(int(holder.get("pid", 0)))

    def _watch(self, generation: int) -> None:
        """Return when the holder is silent for long enough; BusyError as soon as it moves."""
        first = self._read(generation)
        end = time.monotonic() + self._silence_s
        while time.monotonic() < end:
            time.sleep(min(self._beat_s, self._silence_s) / 2)
            now = self._read(generation)
            if now.get("state") == "released":
                return
            if now != first or self._newest() != generation:
                raise self._busy(generation)
        logger.warning("taking over from a driver on %s that went silent", first.get("host"))

    def _busy(self, generation: int) -> BusyError:
        holder = self._read(generation)
        return BusyError(
            f"another driver (host {holder.get('host', '?')}, process {holder.get('pid', '?')}) works on "
            f"{self._store.uri}; wait for it to end, stop it, or choose another target"
        )

    def _newest(self) -> int:
        return max((_generation(entry.key) for entry in self._store.list(_FOLDER)), default=0)

    def _read(self, generation: int) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._store.read(self._key(generation)))
        except (RayscaleError, ValueError):
            return {}
        return content

    def _content(self, state: str) -> bytes:
        holder = {**self._owner, "token": self._token, "beats": self._beats, "state": state}
        return json.dumps(holder).encode()

    @staticmethod
    def _key(generation: int) -> str:
        return f"{_FOLDER}{generation:08d}.json"


def _generation(key: str) -> int:
    text = key.removeprefix(_FOLDER).removesuffix(".json")
    return int(text) if text.isdigit() else 0


def _pid_space() -> str:
    """What makes a process number unique on a host: containers of one host count for themselves."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _is_running(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
