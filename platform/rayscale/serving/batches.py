"""Batches over HTTP: what is asked, what is known of each, and who may see it.

All that is known of a batch is one object in the store of the records and the manifest in its target. A service that starts
again knows every batch; nothing is kept in memory.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from rayscale import strictjson
from rayscale.errors import NotFoundError, StorageError
from rayscale.options import Options
from rayscale.serving.errors import ConflictError, SourceNotAllowedError, UnavailableError
from rayscale.serving.keys import Key
from rayscale.serving.settings import ServeSettings
from rayscale.storage import Store

ACTIVE = ("queued", "running")
"""States that are not the last one; the others are done, partial, failed and cancelled."""

_LISTED = 200
_TRIES = 5


@dataclass(frozen=True)
class Asked:
    """What a batch is about; arguments as of ``rayscale.batch.upscale_bucket``.

    Attributes:
        options: in their text forms (``Options.to_texts``).
        keys: of the source, instead of all of it.
        webhook: where its end is told.
    """

    source: str
    target: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] | None = None
    limit: int | None = None
    overwrite: bool = False
    webhook: str | None = None

    @property
    def digest(self) -> str:
        """Equal for equal requests."""
        return hashlib.sha256(strictjson.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """All that is known of a batch.

    Attributes:
        id: begins with the time, so that a listing is in order.
        owner: name of the key that asked for it.
        state: queued, running, done, partial, failed or cancelled.
        attempt: how often it was started.
        created, updated: seconds since 1970.
        progress: as of ``rayscale.batch.Progress``.
        summary: as of ``rayscale.batch.Summary.to_dict``, its failures cut; of an attempt that came to its end.
        message: why it failed.
    """

    id: str
    owner: str
    asked: Asked
    state: str = "queued"
    attempt: int = 1
    created: float = 0.0
    updated: float = 0.0
    progress: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""

    @property
    def job(self) -> str:
        """The id of the job that works on it."""
        return f"rayscale-{self.id}-{self.attempt}"

    def to_json(self) -> bytes:
        """What the store holds."""
        return strictjson.dumps({"format": 1, **asdict(self)}).encode()

    @staticmethod
    def from_json(data: bytes) -> Record:
        """Raises StorageError for anything else."""
        try:
            values = strictjson.loads(data)
            if values.pop("format") != 1:
                raise ValueError("another format")
            asked = values.pop("asked")
            if asked["keys"] is not None:
                asked["keys"] = tuple(asked["keys"])
            return Record(asked=Asked(**asked), **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StorageError(f"the record of a batch cannot be read ({error})") from None


class Jobs(Protocol):
    """What runs batches: ``rayscale.serving.rayjobs``."""

    def submit(self, job: str, record: str) -> None:
        """Start the work on the record of this URI. Raises UnavailableError."""

    def ended(self, job: str) -> str | None:
        """Why it does not work any longer; None while it does. Raises UnavailableError."""

    def stop(self, job: str) -> None:
        """End it, where it still works."""


class Records:
    """The records in their store; every change is on top of the last one."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def read(self, batch: str) -> Record:
        """Raises NotFoundError."""
        return self._version(batch)[0]

    def create(self, record: Record) -> bool:
        """Whether it was not there before."""
        key = f"{record.id}.json"
        return self.store.write(key, record.to_json(), if_absent=True) is not None

    def change(self, batch: str, at_attempt: int, **values: Any) -> Record:
        """The record with new values; unchanged where it has ended, or is at another attempt."""
        return self._replace(
            batch, lambda old: old.attempt == at_attempt and old.state in ACTIVE, values
        )

    def put(self, batch: str, **values: Any) -> Record:
        """The record with new values, whatever it is."""
        return self._replace(batch, lambda old: True, values)

    def _replace(
        self, batch: str, fits: Callable[[Record], bool], values: Mapping[str, Any]
    ) -> Record:
        for _ in range(_TRIES):
            old, tag = self._version(batch)
            if not fits(old):
                return old
            new = replace(old, updated=time.time(), **values)
            if self.store.write(f"{batch}.json", new.to_json(), if_match=tag) is not None:
                return new
        raise UnavailableError(f"the record of the batch {batch} changes all the time; try again")

    def list(self) -> list[str]:
        """Ids, the latest first."""
        keys = (entry.key for entry in self.store.list("2"))  # of this millennium; not the files
        ids = [key.removesuffix(".json") for key in keys if key.endswith(".json")]
        return sorted((each for each in ids if "/" not in each), reverse=True)

    def _version(self, batch: str) -> tuple[Record, str]:
        try:
            data, tag = self.store.read_version(f"{batch}.json")
        except NotFoundError:
            raise NotFoundError(f"there is no batch {batch}") from None
        return Record.from_json(data), tag


class Batches:
    """Every batch of a service, for its callers."""

    def __init__(self, records: Records, jobs: Jobs, settings: ServeSettings) -> None:
        self.records = records
        self.jobs = jobs
        self.settings = settings

    def submit(self, asked: Asked, key: Key, idempotency: str | None = None) -> Record:
        """Start a batch, or find the one that the same idempotency key has started.

        Raises:
            SourceNotAllowedError: a place outside of the prefixes of the key.
            ConflictError: the idempotency key belongs to another request, or too many batches are active.
            UnavailableError: no job can be started.
        """
        self._check(asked, key)
        now = time.time()
        made = f"{time.strftime('%Y%m%d%H%M%S', time.gmtime(now))}-{secrets.token_hex(6)}"
        record = Record(made, key.id, asked, created=now, updated=now)
        if idempotency is not None:
            record = replace(record, id=self._claim(idempotency, key, record))
        if not self.records.create(record):
            return self.find(record.id, key)
        return self._start(record)

    def find(self, batch: str, key: Key) -> Record:
        """A batch of this key, its state held against that of its job. Raises NotFoundError for those of others as well."""
        record = self.records.read(batch)
        if record.owner != key.id:
            raise NotFoundError(f"there is no batch {batch}")
        if record.state not in ACTIVE:
            return record
        reason = self.jobs.ended(record.job)
        if reason is None:
            return record
        return self.records.change(batch, record.attempt, state="failed", message=reason)

    def list(self, key: Key, limit: int) -> list[Record]:
        """Those of this key, the latest first."""
        found: list[Record] = []
        for batch in self.records.list()[:_LISTED]:
            record = self.records.read(batch)
            if record.owner == key.id:
                found.append(record)
                if len(found) == limit:
                    break
        return found

    def cancel(self, batch: str, key: Key) -> Record:
        """End its work; what is done stays done."""
        record = self.find(batch, key)
        if record.state not in ACTIVE:
            return record
        record = self.records.change(batch, record.attempt, state="cancelled")
        self.jobs.stop(record.job)
        return record

    def retry(self, batch: str, key: Key) -> Record:
        """Work once more on what failed or was left. Raises ConflictError while it works."""
        record = self.find(batch, key)
        if record.state in ACTIVE:
            raise ConflictError(f"the batch {batch} is {record.state}; cancel it first")
        self._check(record.asked, key)
        again: dict[str, Any] = {"attempt": record.attempt + 1, "message": "", "progress": {}}
        return self._start(self.records.put(batch, state="queued", **again))

    def _start(self, record: Record) -> Record:
        try:
            self.jobs.submit(record.job, self.records.store.locate(f"{record.id}.json"))
        except UnavailableError as error:
            self.records.change(record.id, record.attempt, state="failed", message=str(error))
            raise
        return record

    def _claim(self, idempotency: str, key: Key, record: Record) -> str:
        """The id that belongs to the idempotency key of this caller."""
        name = hashlib.sha256(f"{key.id}\0{idempotency}".encode()).hexdigest()
        place, digest = f"idempotency/{name}.json", record.asked.digest
        told = strictjson.dumps({"id": record.id, "digest": digest}).encode()
        if self.records.store.write(place, told, if_absent=True) is not None:
            return record.id
        before = strictjson.loads(self.records.store.read(place))
        if before["digest"] != digest:
            raise ConflictError("this Idempotency-Key belongs to another request; take a new one")
        return str(before["id"])

    def _check(self, asked: Asked, key: Key) -> None:
        allowed = (*(key.prefixes or self.settings.places()), own_place(self.records.store, key))
        for uri in (asked.source, asked.target):
            check_place(uri, allowed)
        key.check_model(asked.model)
        if asked.webhook is not None:
            from rayscale.serving.webhook import check_webhook

            check_webhook(asked.webhook, self.settings)
        Options.parse(**asked.options)
        active = [each for each in self.list(key, _LISTED) if each.state in ACTIVE]
        if len(active) >= self.settings.max_batches:
            raise ConflictError(
                f"active batches of this key: {len(active)}, as many as may be (RAYSCALE_SERVE_MAX_BATCHES); wait for "
                "one, or cancel it"
            )


def own_place(store: Store, key: Key) -> str:
    """Where a key's uploads lie, and where its batches may write for it to fetch: of everybody's alone where there are keys."""
    return store.locate(f"files/{key.id}")


def check_place(uri: str, allowed: tuple[str, ...]) -> None:
    """Raise SourceNotAllowedError for a place that is not below one of the allowed ones, letter by letter."""
    below = any(
        uri == prefix.rstrip("/") or uri.startswith(f"{prefix.rstrip('/')}/") for prefix in allowed
    )
    odd = any(ord(letter) < 32 for letter in uri) or {".", ".."} & set(uri.split("/"))
    if not below or odd:
        raise SourceNotAllowedError(
            f"{uri[:200]!r} is not below a place that this service may use: "
            + f"{', '.join(allowed)} (RAYSCALE_SERVE_BATCH_PREFIXES)"
        )
