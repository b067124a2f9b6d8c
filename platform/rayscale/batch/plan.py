"""What a run has to do: the inputs, less what the manifest and the target say is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rayscale import correlation, strictjson
from rayscale.batch.inputs import Inputs
from rayscale.batch.manifest import Row
from rayscale.models.builtin import OpenedModel
from rayscale.options import Options
from rayscale.storage import Entry

if TYPE_CHECKING:
    from rayscale.inference.pipeline import Pipeline
    from rayscale.models.network import SuperResolver

_FORMAT = 3  # of the outputs: a change of what the same method produces counts it up


@dataclass(frozen=True)
class Method:
    """All that determines an output besides its source: the model, its digest, and the options with the scale that holds."""

    model: str
    digest: str
    options: Options

    @property
    def scale(self) -> float:
        """How many times larger."""
        assert self.options.scale is not None
        return self.options.scale

    @property
    def id(self) -> str:
        """A digest of everything but the model's name, which may be an alias."""
        values = {**self.parameters, "digest": self.digest, "format": _FORMAT}
        text = strictjson.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def parameters(self) -> dict[str, Any]:
        """What the user chose besides the model. Options that are left at their defaults are absent but for three, so
        that outputs of before there was an option keep their id."""
        options = self.options
        always = {"ensemble": options.ensemble, "precision": options.precision}
        return {**always, **options.to_dict()}

    def pipeline(self, network: SuperResolver, device: str) -> Pipeline:
        """The network as the method wants it used."""
        from rayscale.inference.pipeline import Pipeline

        model = OpenedModel(network, self.digest, self.model)
        return Pipeline(model, self.options, device=device)


@dataclass(frozen=True)
class Task:
    """The unit of work: one input, and what the plan saw at its output key.

    Attributes:
        entry: the version of the source that is to be read.
        found: version tag of the object that was at the output key, "" for none.
        ours: whether the manifest tells that object, so that it may be replaced by a newer output.
        beside: keys of its sidecars.
    """

    entry: Entry
    found: str = ""
    ours: bool = False
    beside: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One line; carries any name a store may have."""
        return strictjson.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Task:
        values = json.loads(text)
        beside = tuple(values["beside"])
        return Task(**{**values, "entry": Entry(**values["entry"]), "beside": beside})


@dataclass
class Plan:
    """``todo`` is processed; the rest is only counted.

    Attributes:
        total: inputs the run is about: ``done`` + ``kept`` + ``missing`` + ``todo`` + ``left``.
        missing: failures of inputs that cannot be had whole, see ``Inputs``.
        kept: failures of earlier runs that are not tried again.
        left: inputs beyond the limit.
        ignored: objects of the source that are not inputs: hidden, not asked for, or outputs.
        occupied: of ``todo``, those whose output key holds an object that the manifest does not tell.
        covers: whether a key, were it in the source, would be one of the inputs.
    """

    todo: list[Task] = field(default_factory=list)
    done: int = 0
    missing: list[Row] = field(default_factory=list)
    kept: list[Row] = field(default_factory=list)
    left: int = 0
    ignored: int = 0
    occupied: int = 0
    covers: Callable[[str], bool] = lambda _: True

    @property
    def total(self) -> int:
        return len(self.todo) + self.done + len(self.missing) + len(self.kept) + self.left


def start_row(entry: Entry, method: Method) -> Row:
    """The row of an input before anything is known of its fate."""
    return Row(
        entry.key, entry.etag, entry.size, method.id, method.model, method.digest, method.parameters,
        run=correlation.current(),
    )  # fmt: skip


def make_plan(
    inputs: Inputs,
    outputs: Mapping[str, str],
    rows: Mapping[str, Row],
    method: Method,
    *,
    retry_failed: bool = True,
    limit: int | None = None,
) -> Plan:
    """Compare inputs, manifest and target.

    An input is done when its row tells the same source version and method, and the target holds the very
    object the row tells. Everything else is to do, also what no reader can read: it becomes a failure with its
    reason. ``outputs`` are the version tags of the target by key, ``limit`` bounds ``todo``.
    """
    plan = Plan(ignored=inputs.ignored, covers=inputs.covers)
    for key, error in inputs.missing.items():
        row = start_row(Entry(key, 0, ""), method)
        plan.missing.append(replace(row, error=error.code, message=str(error)))
    for entry in inputs.entries:
        row_or_none, found = rows.get(entry.key), outputs.get(entry.key, "")
        ours = bool(found and row_or_none and row_or_none.output_etag == found)
        same = row_or_none and (row_or_none.source_etag, row_or_none.recipe) == (
            entry.etag,
            method.id,
        )
        if row_or_none and same and ours and not row_or_none.error:
            plan.done += 1
        elif row_or_none and same and row_or_none.error and not retry_failed:
            plan.kept.append(row_or_none)
        elif limit is not None and len(plan.todo) >= limit:
            plan.left += 1
        else:
            beside = inputs.beside.get(entry.key, ())
            plan.todo.append(Task(entry, found, ours, beside))
            plan.occupied += bool(found) and not ours
    return plan
