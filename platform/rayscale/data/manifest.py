"""What a dataset holds: ``manifest.json``, written last, without which there is no dataset, and the lists it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rayscale import strictjson
from rayscale.data.config import PrepareConfig
from rayscale.data.parts import Part, Table, read_rows
from rayscale.degradations import BICUBIC, Degradation
from rayscale.errors import NotFoundError, StorageError
from rayscale.files import check_format
from rayscale.storage import Store, connect

MANIFEST = "manifest.json"
FORMAT = 2
"""Of format 1 shards and left-out images stand in the manifest itself."""

_LISTS = {"shards", "failures", "skipped"}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Failure(_Record):
    """A source image that is not in the dataset, and why."""

    key: str
    error: str
    """Class of the error, as ``UnsupportedError``; ``Skipped`` for images without a usable sub-image."""
    message: str


class Column(_Record):
    """One object: the HR or one LR version of every row of a shard."""

    key: str
    bytes: int
    sha256: str


class Shard(_Record):
    """Rows stored together; ``columns`` is keyed by scale as text, ``"1"`` being HR."""

    name: str
    sizes: tuple[tuple[int, int, int], ...]
    """Runs ``(height, width, rows)`` of equal HR sizes, in row order."""
    columns: dict[str, Column]

    @property
    def rows(self) -> int:
        return sum(count for _, _, count in self.sizes)


class Counts(_Record):
    """How much a dataset holds and leaves out."""

    images: int
    sub_images: int
    pixels: int
    """HR pixels of the source images that are in; those shared by sub-images count once."""
    failed: int
    skipped: int
    ignored: int
    """Objects of the source whose suffix is not that of an image, and those held out by ``exclude``."""
    incomplete: int = 0
    """Sub-images with missing pixels, of which only complete quarters are in."""


class Manifest(_Record):
    """Everything a reader needs to know; ``digest`` names the content wherever it is stored.

    ``mean`` and ``deviation`` are per channel, as fractions of the peak (255 or 65535), over every HR pixel once.
    """

    format: Literal[1, 2]
    source: str
    created: str
    """Time of the commit, ISO 8601 in UTC."""
    config: PrepareConfig
    channels: int
    bits: Literal[8, 16]
    scales: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    counts: Counts
    shards: tuple[Shard, ...] = ()
    failures: tuple[Failure, ...] = ()
    skipped: tuple[Failure, ...] = ()
    parts: tuple[Part, ...] = ()
    """Where ``shards``, ``failures`` and ``skipped`` are stored."""
    lr: Literal["bicubic", "made", "pairs"] = "bicubic"
    """Where LR comes from: made of HR by bicubic or another degradation, or images of its own."""
    degradation: Degradation = BICUBIC
    """How LR is made of HR; says nothing of pairs. Of one that draws, shards hold HR alone."""
    digest: str
    """sha256 over what training reads: pixels, their order, channels, bits, scales, and where LR comes from."""

    @property
    def peak(self) -> int:
        return int((1 << self.bits) - 1)

    @property
    def degradation_name(self) -> str:
        """How LR differs from HR, in a word or text: ``pairs`` where that is not known."""
        return "pairs" if self.lr == "pairs" else str(self.degradation)

    def smaller_than(self, side: int) -> int:
        """Sub-images that are less than ``side`` HR pixels wide or high: patches of that side leave them out."""
        return sum(
            rows
            for shard in self.shards
            for height, width, rows in shard.sizes
            if min(height, width) < side
        )

    @classmethod
    def load(cls, place: str | Path | Store) -> Manifest:
        """Read the manifest of a dataset, given its root or the address of the manifest itself.

        Raises ``NotFoundError`` where none was committed and ``StorageError`` for a damaged one.
        """
        store = place if isinstance(place, Store) else dataset_store(place)
        address = store.locate(MANIFEST)
        try:
            content = json.loads(store.read(MANIFEST))
        except NotFoundError as error:
            raise NotFoundError(
                f"{address} does not exist: no dataset is complete there; make one with "
                f"`rayscale prepare SOURCE {store.uri}`"
            ) from error
        except ValueError as error:
            raise StorageError(
                f"{address} is damaged (not JSON); prepare the dataset again"
            ) from error
        if isinstance(content, dict):
            way_out = (
                "use the rayscale that wrote it, or prepare the dataset again at another place"
            )
            found = content.get("format")
            check_format(address, FORMAT if found == 1 else found, FORMAT, way_out)
        try:
            manifest = cls.model_validate(content)
        except ValidationError as error:
            raise StorageError(f"{address} is damaged: {error.errors()[0]['msg']}") from error
        if manifest.parts:
            manifest = manifest.model_copy(update=dict(_read_lists(store, manifest.parts)))
        if content_digest(manifest, manifest.shards) != manifest.digest:
            raise StorageError(
                f"{address} is damaged: its digest does not match; prepare the dataset again"
            )
        return manifest

    def commit(self, store: Store) -> None:
        """Write the manifest, whose ``parts`` are stored: from here on the dataset exists."""
        store.write(MANIFEST, self.model_dump_json(indent=1, exclude=_LISTS).encode())


def dataset_store(place: str | Path) -> Store:
    """The store of a dataset given its root or the address of its manifest."""
    return connect(str(place).removesuffix(MANIFEST))


def _read_lists(store: Store, parts: tuple[Part, ...]) -> Iterator[tuple[str, tuple[_Record, ...]]]:
    """Not validated again: the parts have the digests that the manifest says."""
    yield (
        "shards",
        tuple(
            Shard.model_construct(
                name=row["name"],
                sizes=tuple((run["height"], run["width"], run["rows"]) for run in row["sizes"]),
                columns={
                    each.pop("scale"): Column.model_construct(**each) for each in row["columns"]
                },
            )
            for row in read_rows(store, parts, "shards")
        ),
    )
    tables: tuple[Table, ...] = ("failures", "skipped")
    for table in tables:
        rows = read_rows(store, parts, table)
        yield table, tuple(Failure.model_construct(**row) for row in rows)


def content_digest(manifest: Manifest, shards: Iterable[Shard]) -> str:
    """sha256 over what training reads; independent of time, place, and order of execution."""
    content: dict[str, Any] = {
        "format": 1,  # of what is hashed: a dataset keeps its digest whatever its manifest looks like
        "channels": manifest.channels,
        "bits": manifest.bits,
        "scales": manifest.scales,
    }
    if manifest.lr != "bicubic":  # not told otherwise, so that older datasets keep their digest
        content["lr"] = manifest.lr
    if manifest.lr == "made":
        content["degradation"] = str(manifest.degradation)
    digest = hashlib.sha256(_canonical(content).removesuffix("}").encode())
    separator = ',"shards":['  # the last of the sorted keys: hashed as it comes
    for shard in shards:
        columns = {scale: column.sha256 for scale, column in shard.columns.items()}
        digest.update((separator + _canonical([shard.sizes, columns])).encode())
        separator = ","
    digest.update(b"]}")
    return digest.hexdigest()


def _canonical(value: Any) -> str:
    return strictjson.dumps(value, sort_keys=True, separators=(",", ":"))
