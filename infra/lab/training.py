"""A training on a lab's cluster that tells what it does, and the caller's view of it.

    python -m infra.lab.training FOLDER KEY=VALUE ...          # the driver; on a host

Rank 0 writes a line to ``FOLDER/steps`` for each step: the number of workers, the step and its loss. Every worker writes the
rows of the dataset that it draws to ``FOLDER/rows``. As long as there is a file ``FOLDER/slow``, each step of a group takes
longer than the one before, so that a run does not end before its cluster has changed, however long that takes. With
MLFLOW_TRACKING_URI the figures go to MLflow as well.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from infra.lab.hosts import Lab

from rayscale import strictjson
from rayscale.training.config import TrainConfig, load_config

_SLOW_S, _SLOWER = 0.2, 1.03  # 100 steps take 2 minutes


class Step(NamedTuple):
    """A step that was made: by how many workers, its number, its loss."""

    world: int
    number: int
    loss: float


class Recorder:
    """A metric logger, in rank 0's process."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        import ray

        self._folder, self._pause = folder, _SLOW_S
        self._world = ray.train.get_context().get_world_size()
        self._mlflow: Any = None
        if "MLFLOW_TRACKING_URI" in os.environ:
            from rayscale.registry import MlflowLogger

            self._mlflow = MlflowLogger(config.logging.experiment, config.run.name or "")
        self.run_id = "recorded"

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        _append(self._folder / "steps", f"{self._world} {step} {metrics['loss']!r}")
        if self._mlflow:
            self._mlflow.log_metrics(metrics, step)
        if (self._folder / "slow").exists():
            time.sleep(self._pause)
            self._pause *= _SLOWER

    def log_image(self, name: str, pixels: Any, step: int) -> None: ...

    def log_params(self, params: Any) -> None: ...

    def close(self) -> None:
        if self._mlflow:
            self._mlflow.close()


def _record_rows(folder: Path) -> Any:
    """A callback of Ray Train: each worker writes down which rows it draws at which step."""
    from ray.train.v2._internal.execution.callback import WorkerCallback

    class Rows(WorkerCallback):  # type: ignore[misc]
        def after_init_train_context(self) -> None:
            from rayscale.data.stream import PatchStream

            draw = PatchStream.rows_at

            def drawn(stream: PatchStream, step: int) -> list[int]:
                rows = draw(stream, step)
                pairs = zip(stream.slots, rows, strict=True)
                _append(folder / "rows", f"{step} " + " ".join(f"{s}:{r}" for s, r in pairs))
                return rows

            PatchStream.rows_at = drawn  # type: ignore[method-assign, assignment]

    return Rows()


def _append(path: Path, line: str) -> None:
    with path.open(
        "ab", buffering=0
    ) as file:  # one write, so that lines of several processes stay whole
        file.write(f"{line}\n".encode())


class Record:
    """What a training told in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[Step]:
        """All that were made, in their order."""
        path = self.folder / "steps"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Step(int(w), int(n), float(loss)) for w, n, loss in map(str.split, lines)]

    def groups(self) -> list[list[Step]]:
        """Steps of one group of workers after the other: they differ in number, or a step is made again."""
        groups: list[list[Step]] = []
        for step in self.steps():
            last = groups[-1][-1] if groups else Step(0, 0, 0.0)
            if step.world != last.world or step.number <= last.number:
                groups.append([])
            groups[-1].append(step)
        return groups

    def rows(self) -> dict[int, dict[int, set[int]]]:
        """Step -> slot of the batch -> rows that any worker drew for it."""
        drawn: dict[int, dict[int, set[int]]] = {}
        for line in (self.folder / "rows").read_text().splitlines():
            step, *pairs = line.split()
            for pair in pairs:
                slot, row = map(int, pair.split(":"))
                drawn.setdefault(int(step), {}).setdefault(slot, set()).add(row)
        return drawn

    @property
    def ended(self) -> bool:
        """Whether there is a result."""
        return (self.folder / "result").exists()

    def result(self) -> tuple[str, str, int]:
        """Digest and place of the weights, and the number of workers at the end."""
        sha256, weights, workers = json.loads((self.folder / "result").read_text())
        return sha256, weights, workers


class Training(Record):
    """A driver on ``host``, and what it tells; ``start`` it again after it died."""

    def __init__(self, lab: Lab, host: str, folder: Path, overrides: list[str]) -> None:
        super().__init__(folder)
        self.lab, self.host, self.overrides = lab, host, overrides
        self.log = folder / "log"
        folder.mkdir()
        (folder / "slow").touch()
        self.start()

    def start(self) -> None:
        """Start the driver; what it says goes to ``log``."""
        command = [sys.executable, "-m", "infra.lab.training", str(self.folder), *self.overrides]
        log = str(self.log.relative_to(self.lab.folder))
        # A group whose host has just gone is not waited for much longer than a worker takes to start.
        self.process = self.lab.start(
            self.host, command, log, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="20"
        )

    def hurry(self) -> None:
        """From now on steps are not slow."""
        (self.folder / "slow").unlink(missing_ok=True)

    def workers(self, *hosts: str) -> list[psutil.Process]:
        """The processes of Ray Train's workers on these hosts, or on all."""
        return self.lab.find("RayTrainWorker", *hosts)


def main(folder: Path, overrides: list[str]) -> None:
    """Train on the cluster."""
    from rayscale import cluster
    from rayscale.training.ray import fit

    cluster.connect(log_to_driver=False)
    result = fit(
        load_config(None, overrides),
        logger_factory=functools.partial(Recorder, folder),
        callbacks=[_record_rows(folder)],
        verbose=False,
    )
    temporary = folder / "result.new"
    temporary.write_text(strictjson.dumps([result.sha256, result.weights, result.workers]))
    temporary.replace(folder / "result")


if __name__ == "__main__":
    # The class that workers get is that of a module they can import.
    from infra.lab import training

    training.main(Path(sys.argv[1]), sys.argv[2:])
