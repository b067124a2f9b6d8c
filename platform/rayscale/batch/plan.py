"""What a run has to do: the listing of the source, less what the manifest and the target say is done."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rayscale.batch.manifest import Row
from rayscale.errors import ConfigError, NotFoundError
from rayscale.storage import Entry, Store

OWN = "_rayscale/"
"""Below this prefix of a target lives the state of the batch jobs."""

_FORMAT = 2  # of the outputs: a change of what the same recipe produces counts it up


@dataclass(frozen=True)
class Recipe:
    """All that determines an output besides its source."""

    model: str
    digest: str
    scale: float
    ensemble: bool = False
    precision: str = "auto"
    consistency: bool = False

    @property
    def id(self) -> str:
        """A digest of everything but the model's name, which may be an alias."""
        values = {**asdict(self), "format": _FORMAT}
        del values["model"]
        if not self.consistency:
            del values["consistency"]  # outputs of before there was such an option keep their id
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class Plan:
    """``todo`` is processed; the rest is only counted.

    Attributes:
        total: inputs the run is about: ``done`` + ``kept`` + ``todo`` + ``left``.
        kept: failures of earlier runs that are not tried again.
        left: inputs beyond the limit.
        ignored: objects of the source that are no inputs: hidden, not asked for, or our own.
    """

    todo: list[Entry] = field(default_factory=list)
    done: int = 0
    kept: list[Row] = field(default_factory=list)
    left: int = 0
    ignored: int = 0

    @property
    def total(self) -> int:
        return len(self.todo) + self.done + len(self.kept) + self.left


def make_plan(
    source: Store,
    target: Store,
    rows: Mapping[str, Row],
    recipe: Recipe,
    *,
    only: str | None = None,
    retry_failed: bool = True,
    limit: int | None = None,
) -> Plan:
    """Compare source, manifest and target.

    An input is done when its row tells the same source version and recipe, and the target holds the very
    object the row tells. Everything else that is not hidden (a name part that begins with a dot) is to do,
    also what no reader can read: it becomes a failure with its reason. ``only`` is a pattern such as ``*.png``
    for whole keys, ``limit`` bounds ``todo``.

    Raises NotFoundError for a source without any input.
    """
    outputs = {entry.key: entry.etag for entry in target.list()}
    plan = Plan()
    for entry in source.list():
        if not _is_input(entry.key, only):
            plan.ignored += 1
            continue
        row = rows.get(entry.key)
        same = row is not None and (row.source_etag, row.recipe) == (entry.etag, recipe.id)
        if row is not None and same and not row.error and outputs.get(entry.key) == row.output_etag:
            plan.done += 1
        elif row is not None and same and row.error and not retry_failed:
            plan.kept.append(row)
        elif limit is not None and len(plan.todo) >= limit:
            plan.left += 1
        else:
            plan.todo.append(entry)
    if not plan.total:
        raise NotFoundError(
            f"no input in {source.uri}" + (f" matches {only!r}" if only else "") + ignored(plan)
        )
    return plan


def check_apart(source: Store, target: Store) -> None:
    """Raise ConfigError where outputs would become inputs, or overwrite them."""
    one, other = _place(source), _place(target)
    if (one + "/").startswith(other + "/") or (other + "/").startswith(one + "/"):
        raise ConfigError(
            f"source {source.uri} and target {target.uri} overlap; choose a target beside the source, such as "
            f"{source.uri.rstrip('/')}-upscaled"
        )


def ignored(plan: Plan) -> str:
    """A clause about what was passed over, or nothing."""
    return f" ({plan.ignored} objects passed over)" if plan.ignored else ""


def _is_input(key: str, only: str | None) -> bool:
    if key.startswith(OWN) or any(part.startswith(".") for part in key.split("/")):
        return False
    return only is None or fnmatch.fnmatchcase(key, only)


def _place(store: Store) -> str:
    if store.uri.startswith("s3://"):
        return store.uri.rstrip("/")
    return str(Path(store.uri).resolve()).rstrip("/")
