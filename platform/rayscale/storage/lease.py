"""One process per place: a lease in the place itself, taken over from a holder that died.

Lease objects are ``<folder><generation>.json``; the highest generation holds. Each generation is created with
if-absent, so that of several processes one wins, and is written afterwards by its holder only. No clocks are
compared: a holder is dead when its heartbeat was seen not to move for a while.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from rayscale import machine, strictjson
from rayscale.errors import RayscaleError
from rayscale.storage.store import Store

logger = logging.getLogger(__name__)

BEAT_S = 2.0
SILENCE_S = 15.0
"""A holder whose heartbeat does not move for so long is taken for dead."""


class BusyError(RayscaleError):
    """Another process works on the same place."""

    code: ClassVar[str] = "busy"


class Lease:
    """Held from ``__enter__`` to ``__exit__``; ``generation`` grows with every holder.

    Entering raises BusyError while another holder lives. After a takeover (this process was stopped for
    long) ``lost`` is true: the caller stops, and whatever it still writes counts as older than its successor's.
    Who works for a holder in another process sets ``generation`` to the holder's, and asks ``check``.

    Args:
        folder: where the lease lies below ``store``, with a slash at its end.
    """

    def __init__(
        self, store: Store, folder: str, *, beat_s: float = BEAT_S, silence_s: float = SILENCE_S
    ) -> None:
        self.generation = 0
        self.lost = False
        self._store, self._folder, self._beat_s, self._silence_s = store, folder, beat_s, silence_s
        self._owner: dict[str, Any] = {
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
        self._owner["since"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        content = self._content("held")
        if self._store.write(self._key(self.generation), content, if_absent=True) is None:
            raise self._busy(self.generation)
        newest = self._newest()
        if newest != self.generation:  # others came and went between our listing and our writing
            self._store.delete(self._key(self.generation))
            raise self._busy(newest)
        for entry in list(self._store.list(self._folder)):
            if self._generation_of(entry.key) < self.generation:
                self._store.delete(entry.key)
        self._thread = threading.Thread(target=self._beat_for_ever, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self.lost:
            try:
                # Kept, not deleted: generations must go on growing.
                self._store.write(self._key(self.generation), self._content("released"))
            except RayscaleError as failure:
                logger.warning("the lease was not released and will run out: %s", failure)

    def check(self) -> None:
        """Raise BusyError when another process has taken over."""
        newest = self._newest()
        if newest > self.generation:
            raise self._busy(newest)

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
        logger.warning("taking over from a process on %s that went silent", first.get("host"))

    def _busy(self, generation: int) -> BusyError:
        holder = self._read(generation)
        return BusyError(
            f"another process has worked on {self._store.uri} since {holder.get('since', '?')} (host "
            f"{holder.get('host', '?')}, process {holder.get('pid', '?')}); wait for it to end, or stop it"
        )

    def _newest(self) -> int:
        entries = self._store.list(self._folder)
        return max((self._generation_of(entry.key) for entry in entries), default=0)

    def _read(self, generation: int) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._store.read(self._key(generation)))
        except (RayscaleError, ValueError):
            return {}
        return content

    def _content(self, state: str) -> bytes:
        holder = {**self._owner, "token": self._token, "beats": self._beats, "state": state}
        return strictjson.dumps(holder).encode()

    def _key(self, generation: int) -> str:
        return f"{self._folder}{generation:08d}.json"

    def _generation_of(self, key: str) -> int:
        text = key.removeprefix(self._folder).removesuffix(".json")
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
