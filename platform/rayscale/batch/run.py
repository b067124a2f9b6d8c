"""The flow of a batch run: model, lease, plan, Ray Data over an actor pool, manifest, summary."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.batch.actors import UpscaleActor, start_row
from rayscale.batch.lease import BusyError, Lease
from rayscale.batch.manifest import Manifest, Row
from rayscale.batch.plan import Plan, Recipe, check_apart, make_plan
from rayscale.errors import ConfigError, RayscaleError
from rayscale.storage import Entry, Store, connect

if TYPE_CHECKING:
    from rayscale.inference import Precision
    from rayscale.models.network import SuperResolver

_BLOCK = 16  # inputs of one Ray task at most: what a kill may cost
_TASK_RETRIES = 2  # after the death of an actor
_SMALL_CLUSTER = 4  # CPUs up to which other services may hold all of them


@dataclass(frozen=True)
class Progress:
    """Where a run is: ``finished`` of ``todo`` inputs, ``failed`` of them, after ``seconds``."""

    finished: int
    failed: int
    todo: int
    seconds: float


@dataclass
class Summary:
    """The outcome of a run.

    Attributes:
        total: inputs in the source.
        done: upscaled now.
        skipped: done by an earlier run.
        failed: their rows, with class and reason.
        left: not tried because of the limit.
        ignored: objects of the source that are no inputs.
        seconds: of the whole run.
    """

    source: str
    target: str
    model: str
    digest: str
    scale: float
    total: int = 0
    done: int = 0
    skipped: int = 0
    left: int = 0
    ignored: int = 0
    failed: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 when all inputs are done, 3 when some are, 1 when none is."""
        if not self.failed and not self.left:
            return 0
        return 3 if self.done or self.skipped else 1

    def to_dict(self) -> dict[str, Any]:
        """The summary as ``--json`` shows it."""
        values = {key: value for key, value in vars(self).items() if key != "failed"}
        failed = [
            {"key": row.key, "error": row.error, "message": row.message} for row in self.failed
        ]
        return {**values, "failed": failed, "exit_code": self.exit_code}


def upscale_bucket(
    source: str | Path,
    target: str | Path,
    *,
    model: str,
    scale: float | None = None,
    weights: str | Path | None = None,
    ensemble: bool = False,
    consistency: bool = False,
    precision: Precision = "auto",
    device: str = "auto",
    actors: int | None = None,
    only: str | None = None,
    limit: int | None = None,
    retry_failed: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Upscale every image of ``source`` to the same name and format in ``target``.

    Args:
        source, target: ``s3://bucket/prefix`` or local folders (on a cluster: folders that all nodes see).
        model: reference in the registry (``name``, ``name@alias``, ``name/version``), or a built-in model;
            with ``weights`` the system that the file holds.
        scale: needed when the model has several; any that it serves, such as 2.5.
        weights: local file instead of the registry.
        consistency: correct every output until it gives its source when shrunk; what is left is in its provenance.
        device: ``auto`` takes the GPUs of the cluster when it has some; ``cpu``, ``cuda``.
        actors: at most so many workers; default one per GPU, or one per CPU.
        only: pattern of keys, as ``*.png``.
        limit: at most so many inputs in this run.
        retry_failed: try the failures of earlier runs again.
        progress: called before the workers start and after every block of results.

    Raises:
        ConfigError: overlapping places, wrong scale or reference.
        NotFoundError: an empty source, an unknown model.
        BusyError: another driver works on ``target``.
        RayscaleError: the model, the stores or the cluster failed as a whole. What was done stays done.
    """
    start = time.monotonic()
    origin, sink = connect(source), connect(target)
    check_apart(origin, sink)
    for name, value in (("actors", actors), ("limit", limit)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    network, recipe = _open_model(model, scale, weights, ensemble, precision)
    recipe = replace(recipe, consistency=consistency)
    summary = Summary(origin.uri, sink.uri, recipe.model, recipe.digest, recipe.scale)
    with Lease(sink) as lease:
        manifest = Manifest(sink, lease.generation).load()
        plan = make_plan(
            origin, sink, manifest.rows, recipe, only=only, retry_failed=retry_failed, limit=limit
        )
        _count(summary, plan)
        if plan.todo:

            def tell(now: Summary) -> None:
                if progress is not None:
                    failed = len(now.failed) - len(plan.kept)
                    seconds = time.monotonic() - start
                    progress(Progress(now.done + failed, failed, len(plan.todo), seconds))

            tell(summary)
            pool = _Pool(origin, sink, network, recipe, device, actors)
            try:
                for rows in pool.run(plan.todo):
                    if lease.lost:
                        raise BusyError(
                            f"another driver took over {sink.uri} while this one was silent; it goes on"
                        )
                    manifest.append(rows)
                    summary.done += sum(not row.error for row in rows)
                    summary.failed += [row for row in rows if row.error]
                    tell(summary)
            finally:
                manifest.flush()  # also when interrupted: what is done is done
        manifest.compact()
    summary.failed.sort(key=lambda row: row.key)
    summary.seconds = round(time.monotonic() - start, 3)
    return summary


def _count(summary: Summary, plan: Plan) -> None:
    summary.total, summary.skipped = plan.total, plan.done
    summary.left, summary.ignored = plan.left, plan.ignored
    summary.failed = list(plan.kept)


def _open_model(
    name: str, scale: float | None, weights: str | Path | None, ensemble: bool, precision: Precision
) -> tuple[SuperResolver, Recipe]:
    """The network on the CPU, and the recipe; here and once, so that a bad model is one error."""
    from rayscale.inference import Upscaler
    from rayscale.registry import open_model

    opened = open_model(name, weights=weights, scale=scale)
    network = opened.network
    if scale is None:
        if len(network.scales) != 1:
            raise ConfigError(
                f"model {opened.label!r} has the scales {', '.join(map(str, network.scales))}; choose one with --scale"
            )
        scale = network.scales[0]
    upscaler = Upscaler(network, scale, device="cpu", precision=precision, ensemble=ensemble)
    return network, Recipe(opened.label, opened.digest, upscaler.scale, ensemble, precision)


class _Pool:
    """Ray Data over an actor pool that fits the cluster."""

    def __init__(
        self,
        source: Store,
        target: Store,
        model: SuperResolver,
        recipe: Recipe,
        device: str,
        actors: int | None,
    ) -> None:
        import ray

        from rayscale import cluster

        cluster.connect(log_to_driver=False)
        total, free = ray.cluster_resources(), ray.available_resources()
        on_gpu = device.startswith("cuda") or (device == "auto" and total.get("GPU", 0) > 0)
        cpus = total.get("CPU", 1.0)
        # One core per actor: convolution on many small tiles scales better over processes than over threads.
        # On a laptop whose Serve and trainers hold every CPU, a share of one still gets through.
        share = 1.0 if cpus > _SMALL_CLUSTER or free.get("CPU", 0) >= 1 else 0.1
        most = actors or max(1, int(total.get("GPU", 1) if on_gpu else cpus))
        self._resources = {"num_cpus": share, "num_gpus": 1 if on_gpu else 0}
        self.most = most
        self._recipe = recipe
        self._arguments = (source, target, ray.put(model), recipe)
        self._options = {
            "device": "auto" if on_gpu else "cpu",
            "threads": max(1, int(cpus) // most) if cpus <= _SMALL_CLUSTER else 1,
            "variables": {
                key: value
                for key, value in os.environ.items()
                if key.startswith(("RAYSCALE_MAX_", "RAYSCALE_STORAGE_"))
            },
        }

    def run(self, todo: Sequence[Entry]) -> Iterator[list[Row]]:
        """Rows as they come, one for every entry of ``todo``.

        What is missing at the end was in blocks whose actor died again and again: those inputs are tried once
        more, each alone, and the one that kills its actor becomes a failure.
        """
        missing = {entry.key: entry for entry in todo}
        block = max(1, min(_BLOCK, len(todo) // (4 * self.most)))
        for size, retries in ((block, _TASK_RETRIES), (1, 0)):
            if missing:
                for rows in self._pass(list(missing.values()), size, retries):
                    for row in rows:
                        missing.pop(row.key, None)
                    yield rows
        reason = "the worker process died at each attempt, likely out of memory; give workers more, or fewer --actors"
        if missing:
            yield [
                replace(start_row(entry, self._recipe), error="worker_died", message=reason)
                for entry in missing.values()
            ]

    def _pass(self, entries: list[Entry], block: int, retries: int) -> Iterator[list[Row]]:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        # Paths travel in rows, never pixels; JSON carries any name a store may have.
        items = [{"task": json.dumps(asdict(entry))} for entry in entries]
        blocks = -(-len(items) // block)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # Copying the context touches deprecated properties, and max_task_retries has no other place in
            # Ray 2.60 than the deprecated one; its default is to retry for ever.
            warnings.simplefilter("ignore", DeprecationWarning)
            context = DataContext.get_current().copy()
            context.enable_progress_bars = False
            context.max_errored_blocks = -1  # a block that is lost is found missing
            with DataContext.current(context):
                dataset = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
                    UpscaleActor,
                    batch_size=None,
                    compute=ActorPoolStrategy(
                        min_size=1, max_size=min(self.most, blocks), max_tasks_in_flight_per_actor=2
                    ),
                    fn_constructor_args=self._arguments,
                    fn_constructor_kwargs=self._options,
                    max_restarts=-1,
                    max_task_retries=retries,
                    **self._resources,
                )
        try:
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield [Row.from_json(text) for text in batch["row"].to_pylist()]
        except ray.exceptions.RayError as error:
            raise RayscaleError(
                f"the workers failed: {str(error).strip().splitlines()[-1][:300]}. What is done is kept; "
                "run the same command again to go on"
            ) from error
