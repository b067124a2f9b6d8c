"""The actor pool of a batch run, on Ray Data: tasks in, rows out, whatever dies in between."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rayscale.batch.actors import UpscaleActor
from rayscale.batch.manifest import Row
from rayscale.batch.plan import Recipe, Task, start_row
from rayscale.errors import RayscaleError
from rayscale.storage import Store

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver

_BLOCK = 16  # inputs of one Ray task at most: what a kill may cost
_TASK_RETRIES = 2  # after the death of an actor
_SMALL_CLUSTER = 4  # CPUs up to which other services may hold all of them


class Pool:
    """Actors in the number that fits the cluster; ``run`` hands them the work."""

    def __init__(
        self,
        source: Store,
        target: Store,
        model: SuperResolver,
        recipe: Recipe,
        *,
        device: str,
        actors: int | None,
        overwrite: bool,
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
            "overwrite": overwrite,
            "device": "auto" if on_gpu else "cpu",
            "threads": max(1, int(cpus) // most) if cpus <= _SMALL_CLUSTER else 1,
            "variables": {
                key: value
                for key, value in os.environ.items()
                if key.startswith(("RAYSCALE_MAX_", "RAYSCALE_STORAGE_"))
            },
        }

    def run(self, todo: Sequence[Task]) -> Iterator[list[Row]]:
        """Rows as they come, one for every task of ``todo``.

        What is missing at the end was in blocks whose actor died again and again: those inputs are tried once
        more, each alone, and the one that kills its actor becomes a failure.
        """
        missing = {task.entry.key: task for task in todo}
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
                replace(start_row(task.entry, self._recipe), error="worker_died", message=reason)
                for task in missing.values()
            ]

    def _pass(self, tasks: list[Task], block: int, retries: int) -> Iterator[list[Row]]:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        # Paths travel in rows, never pixels; JSON carries any name a store may have.
        items = [{"task": task.to_json()} for task in tasks]
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
