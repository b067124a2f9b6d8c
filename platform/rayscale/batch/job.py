"""A batch job, opened: its two places, its model and what it is about. The run and the forecast begin here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rayscale.batch.inputs import (
    Inputs,
    find_inputs,
    find_object,
    inner_prefix,
    read_keys,
    split_pattern,
)
from rayscale.batch.manifest import Manifest, Row
from rayscale.batch.plan import Method, Plan, make_plan
from rayscale.errors import ConfigError, NotFoundError, expect, quantity
from rayscale.options import Options
from rayscale.storage import Store, connect

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver


@dataclass(frozen=True)
class Job:
    """Made by :func:`open_job`; nothing of it changes while it runs."""

    source: Store
    target: Store
    pattern: str | None
    keys: Sequence[str] | None
    network: SuperResolver
    method: Method

    def plan(self, manifest: Manifest, *, retry_failed: bool, limit: int | None) -> Plan:
        """List both places and say what is to do. Rows of ``manifest`` that are no longer true are forgotten.

        Raises NotFoundError for a source without any input.
        """
        inputs = find_inputs(self.source, self.target, pattern=self.pattern, keys=self.keys)
        if not inputs.entries and not inputs.missing:
            raise NotFoundError(
                f"no input in {self.source.uri}"
                + (f" matches {self.pattern!r}" if self.pattern else "")
                + (f" ({quantity(inputs.ignored, 'object')} passed over)" if inputs.ignored else "")
            )
        outputs = {entry.key: entry.etag for entry in self.target.list()}
        manifest.forget(_gone(inputs, outputs.keys()))
        return make_plan(
            inputs, outputs, manifest.rows, self.method, retry_failed=retry_failed, limit=limit
        )


def open_job(
    source: str | Path,
    target: str | Path,
    *,
    model: str,
    options: Options,
    weights: str | Path | None = None,
    keys: str | Path | None = None,
) -> Job:
    """Open the places, the list of keys and the model; see ``upscale_bucket`` for the arguments and errors."""
    root, pattern = split_pattern(source)
    if keys is not None and pattern is not None:
        raise ConfigError(
            f"{source} has wildcards and there is a list of keys; give one of the two"
        )
    wanted = None if keys is None else read_keys(keys)
    if wanted is None and pattern is None and (alone := find_object(root)) is not None:
        root, name = alone
        wanted = [name]
        folder, _, last = str(target).rstrip("/").rpartition("/")
        if last == name:
            raise ConfigError(
                f"outputs keep their names, so the target is where {name} goes; give {folder or '.'}"
            )
    origin, sink = connect(root), connect(target)
    inner_prefix(origin, sink)
    network, method = open_method(model, options, weights)
    return Job(origin, sink, pattern, wanted, network, method)


ONE_BY_ONE = ("uncertainty", "format")
"""Options that no batch can honour."""


def check_options(options: Options) -> None:
    """Raise ConfigError for what no batch can do."""
    expect(options, Options, "rayscale.Options, such as rayscale.Options(scale=2)")
    for name in ONE_BY_ONE:
        options.refuse(
            name,
            "a batch writes one output for each input, of its name and format; upscale such files one by one",
        )


def open_method(
    name: str, options: Options, weights: str | Path | None = None
) -> tuple[SuperResolver, Method]:
    """The network on the CPU, and the method; here and once, so that a bad model is one error."""
    from rayscale.inference import Upscaler
    from rayscale.registry import open_model

    check_options(options)
    opened = open_model(name, weights=weights, scale=options.scale)
    upscaler = Upscaler(opened.network, options, device="cpu")
    options = replace(options, scale=upscaler.scale, labels=upscaler.handling.labels)
    return opened.network, Method(opened.label, opened.digest, options)


def _gone(inputs: Inputs, outputs: Collection[str]) -> Callable[[Row], bool]:
    """Whether a row tells of an output that was deleted, or of the failure of an input that was."""
    present = {entry.key for entry in inputs.entries}

    def gone(row: Row) -> bool:
        if row.error:
            return inputs.covers(row.key) and row.key not in present
        return row.key not in outputs

    return gone
