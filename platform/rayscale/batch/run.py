"""The flow of a batch run: job, lease, plan, actor pool, manifest, summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rayscale import correlation
from rayscale.batch.job import open_job
from rayscale.batch.manifest import Manifest, Row
from rayscale.batch.plan import Plan
from rayscale.batch.pool import Pool, Windows
from rayscale.batch.scenes import FOLDER, scene_id, sweep
from rayscale.cluster.gauges import Gauges
from rayscale.fields import check_counts
from rayscale.machine import Energy
from rayscale.options import DEFAULTS, Options
from rayscale.storage import Store
from rayscale.storage.lease import BusyError, Lease

LEASE = "_rayscale/lease/"


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        finished, failed, todo: inputs; the failed ones are finished too.
        bytes, bytes_todo: of the sources, finished and in all; a scene counts by its finished windows.
        megapixels: of the sources, finished, likewise.
        seconds: since the start.
        windows, windows_todo: of the scene at hand; 0 without one.
    """

    finished: int
    failed: int
    todo: int
    bytes: int
    bytes_todo: int
    megapixels: float
    seconds: float
    windows: int = 0
    windows_todo: int = 0


@dataclass
class Summary:
    """The outcome of a run.

    Attributes:
        total: inputs that the run is about.
        done: upscaled now.
        skipped: done by an earlier run.
        failed: their rows, with class and reason.
        noted: rows of those upscaled now that were read with a remark.
        left: not tried because of the limit.
        ignored: objects of the source that are not inputs.
        megapixels: of the sources of ``done``.
        source_bytes, output_bytes: of ``done``.
        work_seconds: reading, computing and writing, summed over the workers; those of failures too.
        joules: of the processors of this machine during the run, all that ran there; None where no counter can be read.
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
    noted: list[Row] = field(default_factory=list)
    megapixels: float = 0.0
    source_bytes: int = 0
    output_bytes: int = 0
    work_seconds: float = 0.0
    joules: float | None = None
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 when all inputs are done, 3 when some are, 1 when none is."""
        if not self.failed and not self.left:
            return 0
        return 3 if self.done or self.skipped else 1

    def to_dict(self) -> dict[str, Any]:
        """The summary as ``--json`` shows it."""
        values = {k: value for k, value in vars(self).items() if k not in ("failed", "noted")}
        failed = [
            {"key": row.key, "error": row.error, "message": row.message} for row in self.failed
        ]
        noted = [{"key": row.key, "notes": list(row.notes)} for row in self.noted]
        return {**values, "failed": failed, "noted": noted, "exit_code": self.exit_code}


def upscale_bucket(
    source: str | Path,
    target: str | Path,
    *,
    model: str,
    options: Options = DEFAULTS,
    weights: str | Path | None = None,
    keys: str | Path | None = None,
    device: str = "auto",
    actors: int | None = None,
    limit: int | None = None,
    retry_failed: bool = True,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Upscale every image of ``source`` to the same name and format in ``target``.

    Args:
        source, target: ``s3://bucket/prefix`` or local folders (on a cluster: folders that all nodes see). The source
            may have wildcards (see ``inputs``); the target may lie inside the source.
        model: reference in the registry (``name``, ``name@alias``, ``name/version``), or a built-in model;
            with ``weights`` the system that the file holds.
        options: scale, ensemble, levels and the like, see :class:`rayscale.options.Options`; neither uncertainty nor format.
        weights: local file instead of the registry.
        keys: list of keys below the source, instead of all of it (see ``inputs.read_keys``).
        device: ``auto`` takes the GPUs of the cluster when it has some; ``cpu``, ``cuda``.
        actors: at most so many workers; default one per GPU or CPU of the cluster, as it grows and shrinks.
        limit: at most so many inputs in this run.
        retry_failed: try the failures of earlier runs again.
        overwrite: replace objects at output keys that no batch wrote, instead of failing on them.
        progress: called before the workers start and after every block of results.

    Raises:
        ConfigError: overlapping places, wrong scale or reference.
        NotFoundError: an empty source, an unknown model, no list of keys.
        InputError: a list of keys that cannot be read.
        BusyError: another driver works on ``target``.
        RayscaleError: the model, the stores or the cluster failed as a whole. What was done stays done.
    """
    start, energy = time.monotonic(), Energy()
    check_counts(actors=actors, limit=limit)
    job = open_job(source, target, model=model, options=options, weights=weights, keys=keys)
    method, sink = job.method, job.target
    summary = Summary(job.source.uri, sink.uri, method.model, method.digest, method.scale)
    with Lease(sink, LEASE) as lease:
        manifest = Manifest(sink, lease.generation).load()
        plan = job.plan(manifest, retry_failed=retry_failed, limit=limit)
        _count(summary, plan)
        try:
            manifest.append(plan.missing)
            if plan.todo:
                tell = _teller(summary, plan, progress, start, energy)
                tell([])
                pool = Pool(
                    job.source, sink, job.network, method,
                    device=device, actors=actors, overwrite=overwrite,
                )  # fmt: skip
                _work(pool, plan, manifest, lease, tell, sink.uri)
            if not plan.left:  # also with nothing to do: the driver before may have died here
                _sweep(sink, plan, manifest)
            manifest.compact()
        finally:  # also when interrupted: what is done is done
            manifest.flush()
            if not lease.lost:
                manifest.publish()
    summary.failed.sort(key=lambda row: row.key)
    summary.seconds = round(time.monotonic() - start, 3)
    summary.work_seconds = round(summary.work_seconds, 3)
    summary.joules = _joules(energy)
    return summary


def _work(
    pool: Pool,
    plan: Plan,
    manifest: Manifest,
    lease: Lease,
    tell: Callable[[list[Row] | Windows], None],
    target: str,
) -> None:
    """Do what is planned, as long as the target is held."""
    for news in pool.run(plan.todo):
        if lease.lost:
            raise BusyError(
                f"another driver took over {target} while this one was silent, and continues"
            )
        if not isinstance(news, Windows):
            manifest.append(news)
        tell(news)


def _sweep(target: Store, plan: Plan, manifest: Manifest) -> None:
    """Delete what lies in the target of scenes that are done or changed; the next run goes on with the others."""
    failed = [row for row in manifest.rows.values() if row.error]
    kept = {scene_id(row.key, row.source_etag, row.recipe) for row in failed}
    sweep(target, kept, plan.covers)
    target.tidy()
    target.tidy(FOLDER, folders=True)


def _joules(energy: Energy) -> float | None:
    spent = energy.read()
    return None if spent is None else round(spent, 3)


def _count(summary: Summary, plan: Plan) -> None:
    summary.total, summary.skipped = plan.total, plan.done
    summary.left, summary.ignored = plan.left, plan.ignored
    summary.failed = plan.missing + plan.kept


def _add_costs(summary: Summary, rows: list[Row]) -> None:
    summary.work_seconds += sum(row.seconds for row in rows)
    done = [row for row in rows if not row.error]
    summary.megapixels += sum(row.megapixels for row in done)
    summary.source_bytes += sum(row.source_size for row in done)
    summary.output_bytes += sum(row.output_size for row in done)


def _teller(
    summary: Summary,
    plan: Plan,
    progress: Callable[[Progress], None] | None,
    start: float,
    energy: Energy,
) -> Callable[[list[Row] | Windows], None]:
    """A function that adds rows to the summary and tells how far the run is."""
    finished = failed = size = 0
    gauges = Gauges("rayscale_batch", correlation.current())
    total = sum(task.entry.size for task in plan.todo)

    def tell(news: list[Row] | Windows) -> None:
        nonlocal finished, failed, size
        scene, rows = (news, []) if isinstance(news, Windows) else (Windows(0, 0, 0, 0.0), news)
        failures = [row for row in rows if row.error]
        finished, failed = finished + len(rows), failed + len(failures)
        size += sum(row.source_size for row in rows)
        summary.failed += failures
        summary.noted += [row for row in rows if row.notes and not row.error]
        summary.done = finished - failed
        _add_costs(summary, rows)
        share = scene.done / scene.all if scene.all else 0.0
        now = Progress(
            finished, failed, len(plan.todo),
            size + round(share * scene.bytes), total,
            summary.megapixels + share * scene.megapixels,
            time.monotonic() - start, scene.done, scene.all,
        )  # fmt: skip
        spent = {"work_seconds": summary.work_seconds, "output_bytes": summary.output_bytes}
        if (joules := _joules(energy)) is not None:
            spent["joules"] = joules
        gauges.set(asdict(now) | spent)
        if progress is not None:
            progress(now)

    return tell
