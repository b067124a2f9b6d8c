"""What lies in storage and nothing needs any longer: found by ``rayscale gc``, with what deleting it would free.

Nothing younger than a given age counts, and nothing of a place whose lease is held: whatever works at the moment stays whole.
Everything found is judged by the same marks as those who wrote it use (markers, manifests, leases, ends in names).
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rayscale.batch.run import LEASE as BATCH_LEASE
from rayscale.batch.scenes import FOLDER as SCENES
from rayscale.data.manifest import MANIFEST, Manifest
from rayscale.data.preparation import SHARD
from rayscale.errors import ConfigError, RayscaleError
from rayscale.serving.results import NAME, end_of
from rayscale.storage import Entry, Store
from rayscale.training.checkpoint import BEST, MARKER
from rayscale.training.run import CHECKPOINTS, RESULT
from rayscale.training.run import LEASE as RUN_LEASE

logger = logging.getLogger(__name__)

KINDS = ("checkpoint", "shard", "window", "result", "upload")
"""Of leftovers, as ``--kind`` names them."""

_STEP = re.compile(rf"(?P<root>(?:.*/)?){CHECKPOINTS}/step-(?P<step>\d{{8,}})/[^/]+")
_BEST = re.compile(rf"(?P<root>(?:.*/)?){CHECKPOINTS}/best-\d{{8,}}\.safetensors")
_SHARDS = re.compile(rf"(?P<root>(?:.*/)?)(?P<rest>{SHARD.pattern})")
_WINDOW = re.compile(rf"(?P<root>(?:.*/)?){SCENES}(?P<scene>[0-9a-f]{{32}})/[^/]+")
_RESULT = re.compile(rf"(?P<root>(?:.*/)?)(?P<name>{NAME.pattern})/[^/]+")


@dataclass
class Leftover:
    """Objects that go together, or not at all.

    Attributes:
        kind: one of ``KINDS``.
        place: their folder, below the store that was searched.
        reason: why nothing needs them.
        entries: the objects, in the order in which they are deleted.
    """

    kind: str
    place: str
    reason: str
    entries: list[Entry] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What deleting them frees."""
        return sum(entry.size for entry in self.entries)

    @property
    def modified(self) -> float:
        """When the last of them was written, in seconds since 1970."""
        return max(entry.modified for entry in self.entries)

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        about = {"kind": self.kind, "place": self.place, "reason": self.reason}
        return {**about, "objects": len(self.entries), "bytes": self.bytes}


def find(
    store: Store,
    *,
    age_s: float,
    keep: int = 1,
    kinds: Iterable[str] = KINDS,
    now: float | None = None,
) -> list[Leftover]:
    """What may be deleted below ``store``, by place.

    Args:
        age_s: seconds that nothing of it may have been written; results of the page end by themselves, whatever it is.
        keep: the newest checkpoints of a finished run that stay. Runs that are not finished keep all that were committed.
        kinds: look for these only.
        now: seconds since 1970; by default the clock of this machine.

    Raises ConfigError for an unknown kind, and the errors of the store.
    """
    wanted = set(kinds)
    if unknown := wanted - set(KINDS):
        raise ConfigError(f"unknown kind {sorted(unknown)[0]!r}; use one of {', '.join(KINDS)}")
    moment = time.time() if now is None else now
    place = _Place(store, moment - age_s, moment)
    found: list[Leftover] = []
    if "checkpoint" in wanted:
        found += [*place.checkpoints(keep), *place.older_best()]
    if "shard" in wanted:
        found += place.shards()
    if "window" in wanted:
        found += place.windows()
    found = [each for each in found if each.modified < moment - age_s]
    if "result" in wanted:
        found += place.results()
    if "upload" in wanted:
        found += place.uploads()
    return sorted(found, key=lambda each: (each.place, each.kind))


def delete(store: Store, leftover: Leftover) -> None:
    """Delete all of one; what is gone already is passed over."""
    for entry in leftover.entries:
        if leftover.kind == "upload":
            store.forget_unfinished(entry.key)
        else:
            store.delete(entry.key)


class _Place:
    """A store, listed once."""

    def __init__(self, store: Store, before: float, now: float) -> None:
        self.store, self.before, self.now = store, before, now
        self.entries = {entry.key: entry for entry in store.list()}
        self._held: dict[str, bool] = {}

    def checkpoints(self, keep: int) -> Iterator[Leftover]:
        for root, steps in self._grouped(_STEP, "step").items():
            if self._is_held(f"{root}{RUN_LEASE}"):
                continue
            finished = bool(self._json(f"{root}{RESULT}").get("complete"))
            whole = [step for step in sorted(steps) if _has(steps[step], MARKER)]
            spare = set(whole[: max(0, len(whole) - keep)] if finished else ())
            for step, entries in sorted(steps.items()):
                if step in whole and step not in spare:
                    continue
                reason = "its run is finished" if step in spare else "it was never committed"
                # The marker first: without it there is no checkpoint.
                entries.sort(key=lambda entry: not entry.key.endswith(MARKER))
                yield Leftover("checkpoint", f"{root}{CHECKPOINTS}/step-{step}", reason, entries)

    def older_best(self) -> Iterator[Leftover]:
        for key, entry in self.entries.items():
            match = _BEST.fullmatch(key)
            if match is None or self._is_held(f"{match['root']}{RUN_LEASE}"):
                continue
            named = self._json(f"{match['root']}{CHECKPOINTS}/{BEST}").get("file")
            if named and not key.endswith(f"/{named}"):
                yield Leftover("checkpoint", key, "other weights are the best", [entry])

    def shards(self) -> Iterator[Leftover]:
        for root, names in self._grouped(_SHARDS, "name").items():
            kept: set[str] | None = set()
            if f"{root}{MANIFEST}" in self.entries:
                kept, reason = self._shards_of(root), "the manifest does not name it"
            else:
                reason = "its dataset was never finished"
            if kept is None:
                continue
            for name, entries in sorted(names.items()):
                # A record alone says that a task gave nothing, which preparing again need not find out.
                if name not in kept and any(e.key.endswith(".arrow") for e in entries):
                    yield Leftover("shard", f"{root}shards/{name}", reason, entries)

    def windows(self) -> Iterator[Leftover]:
        for root, scenes in self._grouped(_WINDOW, "scene").items():
            if not self._is_held(f"{root}{BATCH_LEASE}"):
                for scene, entries in sorted(scenes.items()):
                    reason = "no batch has gone on with its scene"
                    yield Leftover("window", f"{root}{SCENES}{scene}", reason, entries)

    def results(self) -> Iterator[Leftover]:
        for root, names in self._grouped(_RESULT, "name").items():
            for name, entries in sorted(names.items()):
                if end_of(name) < self.now:
                    entries.sort(key=lambda entry: not entry.key.endswith("/record.json"))
                    yield Leftover("result", f"{root}{name}", "its time is over", entries)

    def uploads(self) -> Iterator[Leftover]:
        try:
            unfinished = list(self.store.list_unfinished())
        except RayscaleError as error:  # a server may not know them, or deny it
            logger.warning("unfinished uploads of %s are not looked for: %s", self.store.uri, error)
            return
        by_key: dict[str, list[Entry]] = {}
        for entry in unfinished:
            by_key.setdefault(entry.key, []).append(entry)
        for key, entries in by_key.items():
            # All of a key end together, so the youngest decides.
            if all(entry.modified < self.before for entry in entries):
                yield Leftover("upload", key, "its writer is gone", entries)

    def _grouped(self, pattern: re.Pattern[str], name: str) -> dict[str, dict[str, list[Entry]]]:
        """The objects whose keys are of a pattern, by root and name."""
        found: dict[str, dict[str, list[Entry]]] = {}
        for key, entry in self.entries.items():
            if match := pattern.fullmatch(key):
                found.setdefault(match["root"], {}).setdefault(match[name], []).append(entry)
        return found

    def _shards_of(self, root: str) -> set[str] | None:
        """The tasks whose shards a manifest names; None where it cannot be read, so that nothing is judged by it."""
        try:
            manifest = Manifest.load(self.store.child(root))
        except RayscaleError as error:
            logger.warning("%s is passed over: %s", self.store.locate(root), error)
            return None
        return {shard.name.partition(".")[0] for shard in manifest.shards}

    def _is_held(self, folder: str) -> bool:
        """Whether the lease in a folder is held by somebody who has shown life since the age began."""
        if folder not in self._held:
            leases = [entry for key, entry in self.entries.items() if key.startswith(folder)]
            newest = max(leases, key=lambda entry: entry.key, default=None)
            self._held[folder] = (
                newest is not None
                and newest.modified >= self.before
                and self._json(newest.key).get("state") == "held"
            )
        return self._held[folder]

    def _json(self, key: str) -> dict[str, Any]:
        """An object; empty where it is not there or none."""
        if key in self.entries:
            with suppress(RayscaleError, ValueError):
                content = json.loads(self.store.read(key))
                return content if isinstance(content, dict) else {}
        return {}


def _has(entries: list[Entry], name: str) -> bool:
    return any(entry.key.endswith(f"/{name}") for entry in entries)
