"""The object at an output key: whose it is, and writing one without harm to another's.

Every output carries a mark that names its source version and method. So an output whose row was lost with its driver is
recognised without computing it again, and an object of anybody else is never taken for one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from rayscale import strictjson
from rayscale.batch.plan import Method, Task
from rayscale.errors import NotFoundError, RayscaleError
from rayscale.files import sha256_of
from rayscale.storage import Entry, Store

_PIECE = 32 << 20


class ExistsError(RayscaleError):
    """At the output key is an object that no batch wrote."""

    code: ClassVar[str] = "exists"


@dataclass(frozen=True)
class Mark:
    """What an output says of itself, in at most some 300 bytes of ASCII.

    Attributes:
        key: digest of the output key, so that a copy under another name is not taken for that output.
        source, recipe: what it was made of, and the id of the method.
        sha256: of the whole object.
        megapixels: of the source.
    """

    key: str
    source: str
    recipe: str
    sha256: str
    megapixels: float

    @staticmethod
    def of(task: Task, method: Method, sha256: str, megapixels: float) -> Mark:
        return Mark(_short(task.entry.key), task.entry.etag, method.id, sha256, megapixels)

    @staticmethod
    def read(text: str | None) -> Mark | None:
        """None for what is not a mark."""
        try:
            return Mark(**json.loads(text or ""))
        except (TypeError, ValueError):
            return None

    def to_text(self) -> str:
        return strictjson.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True)
class Placed:
    """An output in its place: what its row tells."""

    etag: str
    size: int
    sha256: str
    megapixels: float


@dataclass(frozen=True)
class Slot:
    """How one output may be written: ``replaces`` is the version that may be replaced, "" for none, ``ANY`` for all."""

    target: Store
    task: Task
    method: Method
    replaces: str = ""

    ANY: ClassVar[str] = "*"

    def write(self, output: bytes, megapixels: float) -> Placed:
        """Write the output, or find that it is there already.

        Raises ExistsError when another's object is there.
        """
        mark = self._mark(hashlib.sha256(output).hexdigest(), megapixels)
        key = self.task.entry.key
        etag = self.target.write(key, output, **self._condition(), mark=mark.to_text())
        if etag is not None:
            return Placed(etag, len(output), mark.sha256, megapixels)
        return self._take_place(mark, len(output))

    def write_file(self, path: Path, megapixels: float) -> Placed:
        """``write`` of a local file, of any size. What a killed worker sent of it is deleted: only one writes here."""
        self.target.forget_unfinished(self.task.entry.key)
        mark = self._mark(sha256_of(path), megapixels)
        key, size = self.task.entry.key, path.stat().st_size
        etag = self.target.write_file(key, path, **self._condition(), mark=mark.to_text())
        return (
            self._take_place(mark, size)
            if etag is None
            else Placed(etag, size, mark.sha256, megapixels)
        )

    def _mark(self, sha256: str, megapixels: float) -> Mark:
        return Mark.of(self.task, self.method, sha256, megapixels)

    def _condition(self) -> dict[str, Any]:
        free = self.replaces == self.ANY
        return {"if_absent": not self.replaces, "if_match": "" if free else self.replaces}

    def _take_place(self, mark: Mark, size: int) -> Placed:
        """What is in the place that was not free: this output, or ExistsError."""
        now = self.target.stat(self.task.entry.key)
        if (
            placed := _recognise(now, _mark_of(self.target, now), self.task, self.method)
        ) is not None:
            return placed
        if now.mark is None and now.size == size and _sha256(self.target, now.key) == mark.sha256:
            return Placed(now.etag, now.size, mark.sha256, mark.megapixels)
        raise _exists(self.target, now.key)


def find_slot(target: Store, task: Task, method: Method, *, overwrite: bool) -> Slot | Placed:
    """Where the output of ``task`` may be written, or the output when it is there already.

    Raises ExistsError when another's object is there and is not to be overwritten. Where the store keeps no marks,
    that is only seen when the output is written.
    """
    if task.ours or not task.found:
        return Slot(target, task, method, task.found or (Slot.ANY if overwrite else ""))
    try:
        now = target.stat(task.entry.key)
        mark = _mark_of(target, now)
    except NotFoundError:  # since the plan was made
        return Slot(target, task, method)
    if (placed := _recognise(now, mark, task, method)) is not None:
        return placed
    if mark is not None:
        return Slot(target, task, method, now.etag)  # an older output of a batch
    if not overwrite and now.mark is not None:
        raise _exists(target, now.key)
    return Slot(target, task, method, Slot.ANY if overwrite else "")


def _mark_of(target: Store, now: Entry) -> Mark | None:
    """The mark of an object that a batch wrote there, while it is what it wrote."""
    mark = Mark.read(now.mark)
    if mark is None or mark.key != _short(now.key):
        return None
    if target.marks_outlive_bytes and mark.sha256 != _sha256(target, now.key):
        return None
    return mark


def _recognise(now: Entry, mark: Mark | None, task: Task, method: Method) -> Placed | None:
    """The object as the output of ``task``, or None when its mark says otherwise."""
    if mark is None or (mark.source, mark.recipe) != (task.entry.etag, method.id):
        return None
    return Placed(now.etag, now.size, mark.sha256, mark.megapixels)


def _exists(target: Store, key: str) -> ExistsError:
    return ExistsError(
        f"{target.locate(key)} exists and was not written by this batch, so it is left as it is; replace "
        "it with overwrite=true, or choose another target"
    )


def _sha256(store: Store, key: str) -> str:
    """Of an object of any size, read piece by piece."""
    digest, start = hashlib.sha256(), 0
    while piece := store.read_range(key, start, _PIECE):
        digest.update(piece)
        start += len(piece)
    return digest.hexdigest()


def _short(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
