"""Batches over HTTP: what is asked, what is known of each, and who may see it.

All that is known of a batch is one object in the store of the records and the manifest in its target. A service that starts
again knows every batch; nothing is kept in memory.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from rayscale import strictjson
from rayscale.errors import NotFoundError, RayscaleError, StorageError
from rayscale.options import Options
from rayscale.serving.errors import ConflictError, SourceNotAllowedError, UnavailableError
from rayscale.serving.keys import Key
from rayscale.serving.requestid import current_id
from rayscale.serving.settings import ServeSettings
from rayscale.serving.webhook import check_webhook, send
from rayscale.storage import Entry, Store

log = logging.getLogger("ray.serve")

ACTIVE = ("queued", "running")
"""States that are not the last one."""
STATES = (*ACTIVE, "done", "partial", "failed", "cancelled")

_LEASE_S = 60.0
"""For whoever ends a batch to tell its webhook; then another may. As long may a job take until the cluster knows it."""
_TOLD_S = 3600.0
"""For which a webhook is tried again."""
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
        request: id of the request that asked for it, by which `rayscale logs` finds all that came of it.
        tell_at: seconds since 1970 from which its webhook may hear of its end; 0 where there is nothing to say.
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
    request: str = ""
    tell_at: float = 0.0

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
        return self._replace(batch, _works(at_attempt), values)[0]

    def end(self, batch: str, at_attempt: int, **values: Any) -> tuple[Record, bool]:
        """The record with its last state, and whether it was this call that ended it; that one tells the webhook."""
        return self._replace(
            batch, _works(at_attempt), {"tell_at": time.time() + _LEASE_S, **values}
        )

    def claim_telling(self, record: Record) -> bool:
        """Whether this call is the one that may tell the webhook now."""
        fits = lambda old: old.tell_at == record.tell_at  # noqa: E731
        return self._replace(record.id, fits, {"tell_at": time.time() + _LEASE_S})[1]

    def close(self, record: Record) -> None:
        """Nothing is left to tell of this attempt."""
        self._replace(record.id, lambda old: old.attempt == record.attempt, {"tell_at": 0.0})

    def put(self, batch: str, **values: Any) -> Record:
        """The record with new values, whatever it is."""
        return self._replace(batch, lambda old: True, values)[0]

    def _replace(
        self, batch: str, fits: Callable[[Record], bool], values: Mapping[str, Any]
    ) -> tuple[Record, bool]:
        for _ in range(_TRIES):
            old, tag = self._version(batch)
            if not fits(old):
                return old, False
            new = replace(old, updated=time.time(), **values)
            if self.store.write(f"{batch}.json", new.to_json(), if_match=tag) is not None:
                return new, True
        raise UnavailableError(f"the record of the batch {batch} changes all the time; try again")

    def list(self) -> list[Entry]:
        """Objects of the latest batches, the latest first."""
        found = self.store.list("2")  # of this millennium; not the files
        own = (each for each in found if each.key.endswith(".json") and "/" not in each.key)
        return sorted(own, key=lambda each: each.key, reverse=True)[:_LISTED]

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
        self._read: dict[str, tuple[str, Record]] = {}

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
        record = Record(made, key.id, asked, created=now, updated=now, request=current_id())
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
        return self._settle(record)

    def list(self, key: Key, limit: int) -> list[Record]:
        """Those of this key, the latest first."""
        return [record for record in self._latest() if record.owner == key.id][:limit]

    def count(self) -> dict[str, int]:
        """How many of the latest batches, whosever they are, are in which state."""
        states = [record.state for record in self._latest()]
        return {state: states.count(state) for state in STATES}

    def watch(self) -> None:
        """Look after the latest batches: end those whose job has died, and tell webhooks that nobody has told."""
        now = time.time()
        for record in self._latest():
            starting = record.state == "queued" and now - record.updated < _LEASE_S
            if record.state in ACTIVE and not starting:
                self._settle(record)
            elif 0 < record.tell_at < now and self.records.claim_telling(record):
                self._tell(record)

    def _latest(self) -> tuple[Record, ...]:
        """The latest batches; only those that have changed are read."""
        found: dict[str, tuple[str, Record]] = {}
        for entry in self.records.list():
            batch = entry.key.removesuffix(".json")
            etag, record = self._read.get(batch, ("", None))
            if record is None or etag != entry.etag:
                record = self.records.read(batch)
            found[batch] = (entry.etag, record)
        self._read = found
        return tuple(record for _, record in found.values())

    def _settle(self, record: Record) -> Record:
        """The record, ended where its job is."""
        if record.state not in ACTIVE:
            return record
        reason = self.jobs.ended(record.job)
        return record if reason is None else self._end(record, state="failed", message=reason)

    def _end(self, record: Record, **values: Any) -> Record:
        record, ended = self.records.end(record.id, record.attempt, **values)
        if ended:
            self._tell(record)
        return record

    def _tell(self, record: Record) -> None:
        """Tell the webhook while the caller goes on."""
        threading.Thread(
            target=tell, args=(record, self.records, self.settings), daemon=True
        ).start()

    def cancel(self, batch: str, key: Key) -> Record:
        """End its work; what is done stays done."""
        record = self.find(batch, key)
        if record.state not in ACTIVE:
            return record
        record = self._end(record, state="cancelled")
        self.jobs.stop(record.job)
        return record

    def retry(self, batch: str, key: Key) -> Record:
        """Work once more on what failed or was left. Raises ConflictError while it works."""
        record = self.find(batch, key)
        if record.state in ACTIVE:
            raise ConflictError(f"the batch {batch} is {record.state}; cancel it first")
        self._check(record.asked, key)
        again: dict[str, Any] = {
            "attempt": record.attempt + 1, "message": "", "progress": {}, "tell_at": 0.0
        }  # fmt: skip
        return self._start(self.records.put(batch, state="queued", **again))

    def _start(self, record: Record) -> Record:
        try:
            self.jobs.submit(record.job, self.records.store.locate(f"{record.id}.json"))
        except UnavailableError as error:
            self._end(record, state="failed", message=str(error))
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
            check_webhook(asked.webhook, self.settings)
        Options.parse(**asked.options)
        active = [each for each in self.list(key, _LISTED) if each.state in ACTIVE]
        if len(active) >= self.settings.max_batches:
            raise ConflictError(
                f"active batches of this key: {len(active)}, as many as may be (RAYSCALE_SERVE_MAX_BATCHES); wait for "
                "one, or cancel it"
            )


def tell(record: Record, records: Records, settings: ServeSettings) -> None:
    """Tell the webhook of a batch, where it has one, of its end; a host that does not answer is tried again for an hour."""
    try:
        told = record.asked.webhook is None or send(
            record.asked.webhook,
            {"id": record.id, "state": record.state, "target": record.asked.target},
            settings,
        )
        if told or time.time() - record.updated > _TOLD_S:
            records.close(record)
    except RayscaleError as error:  # a host that is allowed no longer, or a store that is gone
        log.warning("the end of the batch %s is not told: %s", record.id, error)


def _works(attempt: int) -> Callable[[Record], bool]:
    return lambda record: record.attempt == attempt and record.state in ACTIVE


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
