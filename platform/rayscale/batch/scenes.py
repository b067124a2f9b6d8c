"""One large GeoTIFF over all workers: windows computed anywhere, kept as parts in the target, assembled at the end.

A part is ``_rayscale/scenes/<scene>/<window>.npz``, and ``<scene>`` a digest of source version and method: whatever is
killed, the parts that are there are right and stay, and the next run computes the others only. ``scene.json`` beside
them is the key of the source, so that runs about other inputs leave them alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rayscale import strictjson
from rayscale.batch.inputs import ChangedError
from rayscale.batch.outputs import Placed, find_slot
from rayscale.batch.plan import Method, Task
from rayscale.errors import StorageError
from rayscale.settings import get_settings
from rayscale.storage import Store

if TYPE_CHECKING:
    from rayscale.imaging.scene import Part, Scene
    from rayscale.inference import Upscaler
    from rayscale.inference.backprojection import Residual
    from rayscale.inference.pipeline import Pipeline
    from rayscale.inference.tiles import Tile

FOLDER = "_rayscale/scenes/"
_LABEL = "scene.json"  # sorted behind the parts, so it is deleted last
_STALE_S = 3600.0  # a copy on a worker's disk that nobody used for so long is deleted


class SceneWork:
    """A scene on its way, seen from a worker: its source on this machine's disk, its windows, its parts.

    Everybody who makes one of the same task and method sees the same windows and the same parts.
    """

    def __init__(self, source: Store, target: Store, method: Method, task: Task) -> None:
        self.source, self.target, self.method, self.task = source, target, method, task
        self.id = scene_id(task.entry.key, task.entry.etag, method.id)
        self.parts = target.child(FOLDER + self.id)
        self.seconds = 0.0
        """Reading and computing the windows, by whomever; known when they are assembled."""
        self.notes: tuple[str, ...] = ()
        """Those of the scene, known likewise."""

    @cached_property
    def path(self) -> Path:
        """The source as a file of this machine, fetched by whoever needs it first.

        Raises ChangedError when the source is another version by now.
        """
        path, entry = self._copy, self.task.entry
        with _workshop(path.with_suffix(".in")) as folder:
            if not path.is_file() or path.stat().st_size != entry.size:
                _forget_stale(path.parent)
                free = shutil.disk_usage(folder).free
                if entry.size > free:
                    raise StorageError(
                        f"{self.source.locate(entry.key)} takes {entry.size} bytes in {path.parent}, which has {free} left; "
                        "free some, or set RAYSCALE_CACHE_DIR of the workers to another disk"
                    )
                fetched = folder / path.name
                try:
                    now = self.source.fetch(entry.key, fetched)
                except OSError as error:
                    raise StorageError(f"{fetched}: {error.strerror or error}") from error
                if now != entry.etag:
                    raise ChangedError.between(entry.etag, now)
                fetched.replace(path)
            os.utime(path)
        return path

    def open(self) -> Scene:
        """The source, to be read by windows as the method says."""
        from rayscale.imaging.scene import Scene

        return Scene(self.path, handling=self.method.options)

    def label(self) -> None:
        """Say beside the parts whose they are; before the first of them."""
        self.parts.write(_LABEL, strictjson.dumps(self.task.entry.key).encode())

    def missing(self, windows: int) -> list[int]:
        """The windows of which there is no part yet."""
        there = {entry.key for entry in self.parts.list()}
        return [number for number in range(windows) if _key(number) not in there]

    def compute(self, scene: Scene, upscaler: Upscaler, number: int, window: Tile) -> None:
        """Enlarge one window and store its part."""
        from rayscale.inference import upscale_window

        start = time.monotonic()
        larger = upscale_window(scene, upscaler, window)
        seconds = time.monotonic() - start
        self.parts.write(_key(number), _pack(larger.part, larger.residual, seconds))

    def assemble(self, pipeline: Pipeline, *, overwrite: bool) -> Placed:
        """Make the output of the parts and put it in its place; then the parts are deleted.

        Raises StorageError when a part is damaged, ExistsError when another's object is in the place.
        """
        from rayscale.inference import windows_of, writer_of
        from rayscale.inference.backprojection import Residual

        upscaler, provenance = pipeline.upscaler, pipeline.provenance
        residual = Residual()
        with _workshop(self._copy.with_suffix(".out")) as folder:
            slot = find_slot(self.target, self.task, self.method, overwrite=overwrite)
            if isinstance(slot, Placed):  # by one who died before it told the row
                self.clear()
                return slot
            output = folder / "scene.tif"
            with (
                self.open() as scene,
                writer_of(scene, upscaler, output) as writer,
            ):
                for number in range(len(windows_of(scene, upscaler))):
                    part, share, seconds = self._part(number)
                    self.seconds += seconds
                    writer.put(part)
                    residual += share
                if upscaler.options.consistency:
                    provenance = provenance.with_measures(residual=residual.describe())
                writer.finish(provenance)
                megapixels = scene.height * scene.width / 1e6
                self.notes = scene.notes + self.notes_beside(upscaler)
            placed = slot.write_file(output, megapixels)
        self.clear()
        return placed

    def notes_beside(self, upscaler: Upscaler) -> tuple[str, ...]:
        """:func:`notes_beside` of the scene."""
        from rayscale.imaging.sidecars import tags_of_file

        return notes_beside(self.source, self.task, tags_of_file(self.path), upscaler)

    def clear(self) -> None:
        """Delete the copy of the source on this machine, and the parts."""
        self.forget()  # first: the next driver finds parts, but not this disk
        for entry in list(self.parts.list()):
            self.parts.delete(entry.key)

    @property
    def alone(self) -> bool:
        """Whether no other scene has a copy on this machine: a disk needs to hold one."""
        return all(path == self._copy for path in self._copy.parent.glob("*.tif"))

    def forget(self) -> None:
        """Delete the copy of the source on this machine."""
        self.__dict__.pop("path", None)
        self._copy.unlink(missing_ok=True)

    @property
    def _copy(self) -> Path:
        return get_settings().cache_dir / "scenes" / f"{self.id}.tif"

    def _part(self, number: int) -> tuple[Part, Residual, float]:
        try:
            return _unpack(self.parts.read(_key(number)))
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            self.parts.delete(_key(number))
            raise StorageError(
                f"{self.parts.locate(_key(number))} was damaged ({error}) and is deleted; run again to compute it anew"
            ) from error


def notes_beside(
    source: Store, task: Task, tags: Collection[int], upscaler: Upscaler
) -> tuple[str, ...]:
    """Notes of what the sidecars of an input tell of it, as in :func:`rayscale.imaging.sidecars.heed`, with its errors."""
    from rayscale.imaging.sidecars import heed

    return heed(task.entry.key, task.beside, tags, source.read, repeats=upscaler.repeats)


def scene_id(key: str, etag: str, method: str) -> str:
    """Of one version of a source, enlarged by one method."""
    text = strictjson.dumps([key, etag, method])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def sweep(target: Store, kept: set[str], covers: Callable[[str], bool]) -> None:
    """Delete the parts of scenes that nobody works on any longer: they are done, or source or method changed.

    Args:
        kept: ids of scenes that are still to be done.
        covers: whether a key is one that the run is about; parts of others are for their own runs to judge.
    """
    scenes: dict[str, list[str]] = {}
    for entry in target.list(FOLDER):
        scenes.setdefault(entry.key.removeprefix(FOLDER).partition("/")[0], []).append(entry.key)
    for scene, keys in scenes.items():
        label = f"{FOLDER}{scene}/{_LABEL}"
        if scene in kept or (label in keys and not covers(json.loads(target.read(label)))):
            continue
        for key in keys:
            target.delete(key)


def _key(number: int) -> str:
    return f"{number:06d}.npz"


def _pack(part: Part, residual: Residual | None, seconds: float) -> bytes:
    arrays: dict[str, Any] = {
        "place": np.array([part.row, part.column]),
        "pixels": part.pixels,
        "seconds": np.array(seconds),
    }
    if part.mask is not None:
        arrays["mask"] = part.mask
    if residual is not None:
        arrays["residual"] = np.array(strictjson.dumps(asdict(residual)))
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _unpack(data: bytes) -> tuple[Part, Residual, float]:
    from rayscale.imaging.scene import Part
    from rayscale.inference.backprojection import Residual

    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        row, column = (int(value) for value in arrays["place"])
        mask = arrays.get("mask")
        share = (
            Residual(**strictjson.loads(str(arrays["residual"]))) if "residual" in arrays else None
        )
        seconds = float(arrays["seconds"]) if "seconds" in arrays else 0.0  # of an older version
        return Part(row, column, arrays["pixels"], mask), share or Residual(), seconds


@contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """``folder``, empty, for one process at a time: others wait, and what a killed one left in it is deleted.

    It is gone at the end. The lock is the kernel's and ends with its process.
    """
    handle = None
    while handle is None:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock(folder, fcntl.LOCK_EX)
    try:
        for rest in folder.iterdir():
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _lock(folder: Path, operation: int) -> int | None:
    """A descriptor that holds the lock of a folder; None when it was deleted meanwhile."""
    with suppress(FileNotFoundError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, operation)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
    return None


def _forget_stale(folder: Path) -> None:
    """Delete copies that nobody used for long, and the workshops of killed workers."""
    for path in folder.iterdir():
        with suppress(
            FileNotFoundError, BlockingIOError
        ):  # another worker deletes it, or works there
            if path.is_dir():
                handle = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if handle is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    os.close(handle)
            elif time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()
