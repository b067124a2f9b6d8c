"""The processes of a batch on a cluster, as Ray keeps them: each makes itself a worker once and then takes blocks of work."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayscale import correlation, strictjson
from rayscale.batch.manifest import Row
from rayscale.batch.plan import Method, Task, start_row
from rayscale.batch.scenes import SceneWork
from rayscale.batch.worker import Worker, describe_failure, fill
from rayscale.settings import get_settings
from rayscale.storage import Store

if TYPE_CHECKING:
    from rayscale.imaging.scene import Scene
    from rayscale.inference.pipeline import Pipeline


def prepare(
    model: Any, method: Method, *, device: str, threads: int, variables: Mapping[str, str]
) -> Pipeline:
    """Make this process a worker and return its pipeline.

    Args:
        model: reference to the network in Ray's object store: read once per node, verified by the driver.
        variables: limits of the driver (``RAYSCALE_...``), which hold for its workers too.
        threads: of torch; the worker's share of the machine.
    """
    os.environ.update(variables)
    get_settings.cache_clear()
    import ray
    import torch

    torch.set_num_threads(threads)
    return method.pipeline(ray.get(model), device)


def _items(batch: dict[str, Any]) -> list[str]:
    """The items of a block: the JSON of its only row."""
    (row,) = batch["items"]
    items: list[str] = json.loads(row)
    return items


class UpscaleActor:
    """The callable class that Ray Data keeps in its actor pool; ``how`` are the options of ``prepare``."""

    def __init__(
        self, source: Store, target: Store, model: Any, method: Method, overwrite: bool, **how: Any
    ) -> None:
        pipeline = prepare(model, method, **how)
        self._worker = Worker(source, target, pipeline, method, overwrite)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """The tasks of a block to ``{"row": [outcome, ...]}``, as JSON."""
        tasks = [Task.from_json(task) for task in _items(batch)]
        outcomes = self._worker.process(tasks)
        for outcome in outcomes:
            if isinstance(outcome, Row):
                _tell(outcome)
        return {"row": [outcome.to_json() for outcome in outcomes]}


def _tell(row: Row) -> None:
    """A line in the log of this worker: what became of an input, which is named by its version only."""
    import ray

    correlation.tell(
        "input",
        source=row.source_etag, error=row.error or None, seconds=row.seconds, megapixels=row.megapixels,
        bytes=row.source_size, task=ray.get_runtime_context().get_task_id(),
    )  # fmt: skip


class SceneActor:
    """Computes windows of one scene; arguments as in ``UpscaleActor``."""

    def __init__(
        self,
        source: Store,
        target: Store,
        model: Any,
        method: Method,
        overwrite: bool,
        task: Task,
        **how: Any,
    ) -> None:
        self._upscaler = prepare(model, method, **how).upscaler
        self._work = SceneWork(source, target, method, task)
        self._scene: Scene | None = None
        self._failure: tuple[str, str] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """The numbers of a block to ``{"row": [[number, class and reason of its failure], ...]}``, as JSON."""
        return {"row": [strictjson.dumps([n, *self._compute(n)]) for n in map(int, _items(batch))]}

    def _compute(self, number: int) -> tuple[str, str]:
        from rayscale.inference import windows_of

        # The scene fails whatever becomes of its other windows; they are for the next run.
        if self._failure:
            return self._failure
        try:
            self._scene = self._scene or self._work.open()
            window = windows_of(self._scene, self._upscaler)[number]
            self._work.compute(self._scene, self._upscaler, number, window)
        except Exception as error:
            self._scene = None
            self._work.forget()
            self._failure = describe_failure(error)
            return self._failure
        return "", ""


def assemble(
    source: Store,
    target: Store,
    model: Any,
    method: Method,
    overwrite: bool,
    task: Task,
    **how: Any,
) -> str:
    """Put a scene whose parts are all there in its place; its row as JSON. Arguments as in ``SceneActor``."""
    row = start_row(task.entry, method)
    start = time.monotonic()
    work = SceneWork(source, target, method, task)
    try:
        row = fill(row, work.assemble(prepare(model, method, **how), overwrite=overwrite))
        row = replace(row, notes=work.notes)
    except Exception as error:
        work.forget()
        code, message = describe_failure(error)
        row = replace(row, error=code, message=message)
    return replace(row, seconds=round(work.seconds + time.monotonic() - start, 3)).to_json()
