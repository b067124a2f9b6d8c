"""Checkpoints in storage that exist when their marker does: saved whole or not at all, verified when read.

``step-00001000/{state.pt, weights.safetensors, COMMITTED}``; the marker is written last, names the format and size and
sha256 of every file, and is deleted first. What a state holds is the business of ``training.step`` and
``training.loop``.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rayscale import strictjson
from rayscale.errors import NotFoundError, StorageError
from rayscale.files import check_format, sha256_of
from rayscale.models.network import SuperResolver
from rayscale.models.weights import save_model
from rayscale.storage import Store

logger = logging.getLogger(__name__)

MARKER = "COMMITTED"
STATE = "state.pt"
WEIGHTS = "weights.safetensors"
FORMAT = 1
"""What a state holds, and what the marker says; markers without a number are of format 1."""

_STEP = re.compile(r"step-(\d{8,})/(.+)")


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint that was read and verified."""

    step: int
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run below ``store``; the newest ``keep`` stay.

    One process writes (rank 0), any number read. Saving runs in a background thread over the copies it
    is given; its error is raised by the next ``save`` or ``wait``.
    """

    def __init__(self, store: Store, keep: int = 3) -> None:
        self.store = store
        self.keep = keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._damaged: set[int] = set()

    def steps(self) -> list[int]:
        """Steps with a marker, increasing; nothing is verified."""
        return sorted(step for step, names in self._folders().items() if MARKER in names)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; damaged ones are passed over with a warning. None without any.

        Raises UnsupportedError for one of a later format.
        """
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except (NotFoundError, DamagedError) as error:
                logger.warning("checkpoint of step %d is passed over: %s", step, error)
                self._damaged.add(step)
        return None

    def load(self, step: int) -> Checkpoint:
        """Read and verify one checkpoint, tensors on the CPU.

        Raises NotFoundError without a marker, DamagedError when a file is not what the marker says, and UnsupportedError
        for a checkpoint of a later format.
        """
        folder = self.store.child(_name(step))
        marker = self._marker(folder)
        with tempfile.TemporaryDirectory(prefix="rayscale-") as temporary:
            for name in marker:
                _fetch(folder, name, marker[name], Path(temporary, name))
            try:
                state = torch.load(Path(temporary, STATE), map_location="cpu", weights_only=True)
            except (RuntimeError, pickle.UnpicklingError, EOFError, FileNotFoundError) as error:
                raise DamagedError(f"{folder.locate(STATE)} cannot be read: {error}") from None
        return Checkpoint(step, state)

    def locate_weights(self, step: int) -> str:
        """The address of the weights of one checkpoint."""
        return self.store.child(_name(step)).locate(WEIGHTS)

    def fetch_weights(self, step: int, path: Path) -> None:
        """Copy the weights of one checkpoint to ``path``, verified; errors as by ``load``."""
        folder = self.store.child(_name(step))
        _fetch(folder, WEIGHTS, self._marker(folder)[WEIGHTS], path)

    def save(self, step: int, state: dict[str, Any], weights: SuperResolver) -> None:
        """Start to save copies that nobody changes any longer; waits for the save before it.

        ``state`` holds only tensors, numbers, texts, lists and dicts (read back with ``weights_only``).
        """
        self.wait()
        self._thread = threading.Thread(
            target=self._run, args=(lambda: self._save(step, state, weights),), name="checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Until the save that was started is committed; raises its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Around the training: a save that was started is committed even when the run fails meanwhile."""
        try:
            yield
        except BaseException:
            if self._thread is not None:
                self._thread.join()
            raise

    def sweep(self) -> None:
        """Delete what was never committed and what is older than the newest ``keep``; one process only.

        Those that ``latest`` found damaged do not count, or they would take the place of whole ones. They stay until
        the run comes past them: what cannot be read here may be readable elsewhere.
        """
        folders = self._folders()
        committed = {step for step, names in folders.items() if MARKER in names}
        kept = sorted(committed - self._damaged)[-self.keep :]
        damaged = {step for step in committed & self._damaged if step > max(kept, default=0)}
        for step, names in folders.items():
            if step not in kept and step not in damaged:
                self._delete(step, names)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # handed to the thread that waits
            self._error = error

    def _save(self, step: int, state: dict[str, Any], weights: SuperResolver) -> None:
        folder = self.store.child(_name(step))
        # A step is saved again after a fall-back past a damaged checkpoint: no marker may name new files.
        folder.delete(MARKER)
        marker: dict[str, dict[str, Any]] = {}
        with tempfile.TemporaryDirectory(prefix="rayscale-") as temporary:
            torch.save(state, Path(temporary, STATE))
            save_model(weights, Path(temporary, WEIGHTS))
            for name in (STATE, WEIGHTS):
                path = Path(temporary, name)
                marker[name] = _describe(path)
                folder.write_file(name, path)
        content = {"format": FORMAT, "step": step, "files": marker}
        folder.write(MARKER, strictjson.dumps(content, indent=1).encode())
        self._damaged.discard(step)
        self.sweep()

    def _marker(self, folder: Store) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(folder.read(MARKER))
            files: dict[str, dict[str, Any]] = content["files"]
            found = content.get("format", FORMAT)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DamagedError(f"{folder.locate(MARKER)} cannot be read") from None
        # Not damage: falling back to an older one would overwrite it.
        way_out = (
            "resume with the rayscale that wrote it, or start another run from its weights "
            "(model.warm_start)"
        )
        check_format(folder.locate(MARKER), found, FORMAT, way_out)
        if not {STATE, WEIGHTS} <= set(files) or any("/" in name for name in files):
            raise DamagedError(f"{folder.locate(MARKER)} does not name the files of a checkpoint")
        return files

    def _folders(self) -> dict[int, list[str]]:
        folders: dict[int, list[str]] = {}
        for entry in self.store.list("step-"):
            if match := _STEP.fullmatch(entry.key):
                folders.setdefault(int(match[1]), []).append(match[2])
        return folders

    def _delete(self, step: int, names: list[str]) -> None:
        folder = self.store.child(_name(step))
        for name in sorted(names, key=lambda name: name != MARKER):
            folder.delete(name)


class DamagedError(StorageError):
    """A committed checkpoint whose files are missing or changed."""


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _fetch(folder: Store, name: str, committed: dict[str, Any], path: Path) -> None:
    """A file of a checkpoint to ``path``; DamagedError when it is not what was ``committed``."""
    try:
        folder.fetch(name, path)
    except NotFoundError:
        raise DamagedError(f"{folder.locate(name)} is missing") from None
    if _describe(path) != committed:
        raise DamagedError(f"{folder.locate(name)} is not what was committed")


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
