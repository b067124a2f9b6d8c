"""Checkpoints in storage that exist when their marker does: saved whole or not at all, verified when read.

``step-00001000/{state.pt, weights.safetensors, COMMITTED}``; the marker is written last, names the format and size and
sha256 of every file, and is deleted first. What a state holds is the business of ``training.step`` and
``training.loop``. Beside the numbered ones lie the weights with the best validation score,
``best-00001000.safetensors``, which exist when ``best.json`` names them.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
BEST = "best.json"
FORMAT = 1
"""What a state holds, and what the marker says; markers without a number are of format 1."""

_STEP = re.compile(r"step-(\d{8,})/(.+)")


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint that was read and verified."""

    step: int
    state: dict[str, Any]


@dataclass(frozen=True)
class Best:
    """The weights with the best validation score of a run: where they lie, and what they scored on which benchmark."""

    step: int
    file: str
    bytes: int
    sha256: str
    scores: dict[str, float]
    benchmark: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run below ``store``; the newest ``keep`` stay, and the best.

    One process writes (rank 0), any number read. Saving runs in one background thread over the copies it is given, in
    the order of the calls. At most one checkpoint and one best are under way: the next of its kind waits for the one
    before it, so that no state is ever skipped and memory holds one copy. An error is raised by the next save of its
    kind, or ``wait``.
    """

    def __init__(self, store: Store, keep: int = 3) -> None:
        self.store = store
        self.keep = keep
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: dict[str, Future[None]] = {}
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

    def adopt(self, other: Checkpoints, step: int) -> None:
        """Copy the checkpoint of ``step`` of another run, verified, unless there is one already; errors as by ``load``."""
        if step in self.steps():
            return
        theirs, mine = other.store.child(_name(step)), self.store.child(_name(step))
        with tempfile.TemporaryDirectory(prefix="rayscale-") as temporary:
            for name, committed in other._marker(theirs).items():
                path = Path(temporary, name)
                _fetch(theirs, name, committed, path)
                mine.write_file(name, path)
        mine.write(MARKER, theirs.read(MARKER))

    def save(self, step: int, state: dict[str, Any], weights: SuperResolver) -> None:
        """Start to save copies that nobody changes any longer; waits for the checkpoint before it.

        ``state`` holds only tensors, numbers, texts, lists and dicts (read back with ``weights_only``).
        """
        self._start("checkpoint", lambda: self._save(step, state, weights))

    def save_best(
        self,
        step: int,
        weights: SuperResolver,
        scores: dict[str, float],
        benchmark: dict[str, Any],
        extra: dict[str, str] | None = None,
    ) -> None:
        """Start to put copies that nobody changes any longer in the place of the best; waits for the best before it.

        ``extra`` goes into the header of the file, as in ``save_model``.
        """
        labels = {"steps": str(step), **(extra or {})}
        self._start("best", lambda: self._save_best(step, weights, scores, benchmark, labels))

    def best(self) -> Best | None:
        """The weights with the best score; None without any, and with a warning where its record cannot be read."""
        try:
            content = strictjson.loads(self.store.read(BEST))
            del content["format"]
            return Best(**content)
        except NotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s is passed over: %s", self.store.locate(BEST), error)
            return None

    def wait(self) -> None:
        """Until all that was started is committed; raises its error."""
        for kind in list(self._pending):
            self._pending.pop(kind).result()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Around the training: a save that was started is committed even when the run fails meanwhile."""
        try:
            yield
        except BaseException:
            wait(self._pending.values())
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

    def _start(self, kind: str, work: Callable[[], None]) -> None:
        if kind in self._pending:
            self._pending.pop(kind).result()
        self._pending[kind] = self._writer.submit(work)

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

    def _save_best(
        self,
        step: int,
        weights: SuperResolver,
        scores: dict[str, float],
        benchmark: dict[str, Any],
        labels: dict[str, str],
    ) -> None:
        name = f"best-{step:08d}.safetensors"
        with tempfile.TemporaryDirectory(prefix="rayscale-") as temporary:
            path = Path(temporary, WEIGHTS)
            save_model(weights, path, labels)
            best = Best(step, name, **_describe(path), scores=scores, benchmark=benchmark)
            self.store.write_file(name, path)
        content = {"format": FORMAT, **asdict(best)}
        self.store.write(BEST, strictjson.dumps(content, indent=1).encode())
        for entry in list(self.store.list("best-")):
            if entry.key != name:
                self.store.delete(entry.key)

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
