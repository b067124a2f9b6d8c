"""The actor pool of a batch run, on Ray Data: tasks in, rows out, whatever dies in between."""

from __future__ import annotations

import gc
import json
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rayscale import correlation, strictjson
from rayscale.batch.actors import SceneActor, UpscaleActor, assemble
from rayscale.batch.manifest import Row
from rayscale.batch.plan import Method, Task, start_row
from rayscale.batch.scenes import SceneWork
from rayscale.batch.worker import SharedScene, parse_outcome
from rayscale.errors import RayscaleError
from rayscale.settings import shared_variables
from rayscale.storage import Store

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver

_BLOCK = 16  # inputs of one Ray task at most: what a kill may cost
_TASK_RETRIES = 2  # after the death of an actor
_SMALL_CLUSTER = 4  # CPUs up to which other services may hold all of them
_LOOK_S = 5.0  # between looks for nodes that joined
_GROWTH = 4  # by how much a joined cluster may grow before workers wait for the blocks of others


@dataclass(frozen=True)
class Windows:
    """How much of a scene is computed; bytes and megapixels are those of the whole source."""

    done: int
    all: int
    bytes: int
    megapixels: float


class Pool:
    """Actors in the number that fits the cluster, also when it grows or shrinks; ``run`` hands them the work."""

    def __init__(
        self,
        source: Store,
        target: Store,
        model: SuperResolver,
        method: Method,
        *,
        device: str,
        actors: int | None,
        overwrite: bool,
    ) -> None:
        import ray

        from rayscale import cluster

        address = cluster.connect(log_to_driver=False)
        total, free = ray.cluster_resources(), ray.available_resources()
        on_gpu = cluster.take_gpus(device)
        cpus = total.get("CPU", 0.0)
        workers = actors or max(1, int(total.get("GPU", 0) if on_gpu else cpus))
        # One core per actor: convolution on many small tiles scales better over processes than over threads.
        # On a laptop whose Serve and trainers hold every CPU, a share of one still gets through.
        crowded = cpus <= _SMALL_CLUSTER and free.get("CPU", 0) < 1 and _head_works()
        self._resources = {"num_cpus": 0.1 if crowded else 1.0, "num_gpus": 1 if on_gpu else 0}
        # Ray Data starts as many as the cluster has room for at the time; shares of a CPU would be too many.
        self._most = actors or (workers if crowded and not on_gpu else None)
        self._expected = workers * (1 if self._most or address == "embedded" else _GROWTH)
        self._source, self._target, self._method = source, target, method
        self._arguments = (source, target, ray.put(model), method, overwrite)
        self._options = {
            "device": "auto" if on_gpu else "cpu",
            "threads": max(1, int(cpus) // workers) if cpus <= _SMALL_CLUSTER else 1,
            "variables": shared_variables() | correlation.variables(),
        }

    def run(self, todo: Sequence[Task]) -> Iterator[list[Row] | Windows]:
        """Rows as they come, one for every task of ``todo``; and after each window of a scene, how many are done.

        An input that kills its actor even alone becomes a failure. Scenes that are work for all come last.
        """
        missing = {task.entry.key: task for task in todo}
        scenes: dict[str, SharedScene] = {}

        def waiting() -> list[str]:
            return [task.to_json() for key, task in missing.items() if key not in scenes]

        block = max(1, min(_BLOCK, len(todo) // (4 * self._expected)))
        for texts in self._passes(UpscaleActor, self._arguments, waiting, block):
            outcomes = [parse_outcome(text) for text in texts]
            scenes |= {each.scene: each for each in outcomes if isinstance(each, SharedScene)}
            rows = [each for each in outcomes if isinstance(each, Row)]
            for row in rows:
                missing.pop(row.key, None)
            yield rows
        for key, scene in scenes.items():
            yield from self._scene(missing.pop(key), scene.windows, scene.megapixels)
        if missing:
            yield [self._died(task) for task in missing.values()]

    def _scene(self, task: Task, windows: int, megapixels: float) -> Iterator[list[Row] | Windows]:
        """The windows of one scene over all actors, then its row."""
        work = SceneWork(self._source, self._target, self._method, task)
        arguments = (*self._arguments, task)
        errors: list[tuple[str, str]] = []
        work.label()
        left = set(work.missing(windows))

        def waiting() -> list[str]:
            return [] if errors else [str(number) for number in work.missing(windows)]

        for texts in self._passes(SceneActor, arguments, waiting, 1):
            outcomes = [json.loads(text) for text in texts]
            errors += [(code, message) for _, code, message in outcomes if code]
            left -= {number for number, code, _ in outcomes if not code}
            yield Windows(windows - len(left), windows, task.entry.size, megapixels)
        if errors:
            code, message = errors[0]
            yield [replace(start_row(task.entry, self._method), error=code, message=message)]
        elif work.missing(windows):
            yield [self._died(task)]
        else:
            yield [self._assemble(task, arguments)]

    def _assemble(self, task: Task, arguments: tuple[Any, ...]) -> Row:
        import ray

        def assemble_scene(arguments: tuple[Any, ...], options: dict[str, Any]) -> str:
            return assemble(*arguments, **options)  # a reference among them stays one, in a tuple

        remote = ray.remote(**self._resources, max_retries=_TASK_RETRIES)(assemble_scene)
        try:
            return Row.from_json(ray.get(remote.remote(arguments, self._options)))
        except ray.exceptions.RayError:
            return self._died(task)

    def _died(self, task: Task) -> Row:
        reason = "the worker process died at each attempt, likely out of memory; give workers more, or take fewer (actors)"
        return replace(start_row(task.entry, self._method), error="worker_died", message=reason)

    def _passes(
        self, actor: type, arguments: tuple[Any, ...], waiting: Callable[[], list[str]], block: int
    ) -> Iterator[list[str]]:
        """What the actors make of all that is ``waiting``, in texts.

        What is left of the first pass was in blocks whose actor died again and again, so each item is tried alone. An
        item dies with the one before it on the same actor, though: in the end there is none before it.
        """
        for size, retries in ((block, _TASK_RETRIES), (1, 0)):
            if items := waiting():
                yield from self._pass(actor, arguments, items, size, retries)
                _free_actors()
        for item in waiting():
            yield from self._pass(actor, arguments, [item], 1, 0)
            _free_actors()

    def _pass(
        self, actor: type, arguments: tuple[Any, ...], items: list[str], block: int, retries: int
    ) -> Iterator[list[str]]:
        """What the actors make of ``items``, in texts; what was lost with a dead one is not among them."""
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        # A row is the items of a block: GPUs want batches of a given number of rows, and Ray Data joins blocks to reach it.
        # Paths travel, never pixels; JSON carries any name a store may have.
        blocks = -(-len(items) // block)
        ends = [number * len(items) // blocks for number in range(blocks + 1)]
        rows = [{"items": strictjson.dumps(items[a:b])} for a, b in pairwise(ends)]
        # A block that is lost is not an error here, and whoever keeps the record of one keeps its actor (see _free_actors).
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            # Copying the context touches deprecated properties, and max_task_retries has no other place in
            # Ray 2.60 than the deprecated one; its default is to retry forever.
            warnings.simplefilter("ignore", DeprecationWarning)
            context = DataContext.get_current().copy()
            context.enable_progress_bars = False
            context.max_errored_blocks = -1  # a block that is lost is found missing
            with DataContext.current(context):
                dataset = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
                    actor,
                    batch_size=1,
                    compute=ActorPoolStrategy(
                        min_size=1,
                        max_size=min(self._most or blocks, blocks),
                        max_tasks_in_flight_per_actor=2,
                    ),
                    fn_constructor_args=arguments,
                    fn_constructor_kwargs=self._options,
                    max_restarts=-1,
                    max_task_retries=retries,
                    **self._resources,
                )
        looking = threading.Event()
        threading.Thread(target=_look_around, args=(looking,), name="nodes", daemon=True).start()
        try:
            # Rows are for the manifest and the progress at once: one read ahead would hold each back until the next.
            for batch in dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                yield batch["row"].to_pylist()
        except ray.exceptions.RayError as error:
            raise RayscaleError(
                f"the workers failed: {str(error).strip().splitlines()[-1][:300]}. What is done is kept; "
                "run the same command again to resume"
            ) from error
        finally:
            looking.set()


def _look_around(end: threading.Event) -> None:
    """Let Ray Data see nodes that join and go, until the end."""
    from ray.exceptions import RayError

    from rayscale import cluster

    while not end.wait(_LOOK_S):
        with suppress(RayError):
            cluster.see_nodes()


def _head_works() -> bool:
    """Whether the head of the cluster takes work; one that does not leaves it to nodes that come and go."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any("node:__internal_head__" in each and each.get("CPU", 0) > 0 for each in nodes)


def _free_actors() -> None:
    """Let go of the CPUs of a pass that is over.

    An actor that died of the last block was started again, and cycles of references in Ray Data 2.60 keep it; the next
    pass would wait for its CPU forever.
    """
    gc.collect()
