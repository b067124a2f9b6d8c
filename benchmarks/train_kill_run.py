"""The curve of an undisturbed run: a training whose workers, hosts, driver, S3 server and MLflow fail again and again.

    python benchmarks/train_kill_run.py                           # 300 seconds of faults
    python benchmarks/train_kill_run.py --seconds 60 --seed 3

Makes three hosts of one CPU and a store (S3, MLflow) out of namespaces (``infra/lab``; needs root), and trains with one to
three workers. Every few seconds something fails: a worker is killed, a host loses its power and comes back later,
the driver is killed and started again, S3 resets connections, cuts bodies or is gone for up to a minute, MLflow is gone. The order is random, but nothing
fails again before all else has. After the given time all is well again and the run goes to its end. Then

- every step's loss, also where a step was made again, is compared with that of one undisturbed process, and so are the weights;
- whoever drew a slot of a step must have drawn the same row, and every row must come once in each epoch;
- MLflow must have the loss of the steps.

Prints a summary in Markdown; exit code 0 when every check holds.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from infra.lab.faults import Faults, kill_driver
from infra.lab.hosts import Lab
from infra.lab.namespaces import lacking
from infra.lab.training import Record, Training

from rayscale.data import PrepareConfig, prepare
from rayscale.models.weights import load_model
from rayscale.storage import connect
from rayscale.storage.s3_client import get_client
from rayscale.training.config import load_config
from rayscale.training.loop import train

HOSTS = ("host-1", "host-2", "host-3")  # the driver is on the first, which stays
BUCKET, ROWS, BATCH = "train-kill-run", 48, 12
DECK = (
    "worker", "worker", "host", "host", "driver", "s3 reset", "s3 cut", "s3 gone", "mlflow gone",
)  # fmt: skip
RELATIVE = (
    1e-2  # of a loss: Adam makes more of sums in another order the higher the rate is: 0.1 at 5e-4
)
DRIVER_STARTS = 100
GONE_S = 60.0  # S3, at most


@dataclass
class Report:
    """What happened, and what of it must not have."""

    steps: int
    faults: Counter[str] = field(default_factory=Counter)
    worlds: Counter[int] = field(default_factory=Counter)
    drivers: int = 1
    groups: int = 0
    repeated: int = 0
    free: int = 0  # changes of the group that made no step again
    deviation: float = 0.0  # of a loss, relative
    weights: float = 0.0  # largest difference of a weight
    seconds: float = 0.0
    missing: int = 0  # steps that MLflow does not have
    wrong: list[str] = field(default_factory=list)

    def to_markdown(self) -> str:
        """A table, and what was wrong below it."""
        failed = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        worlds = ", ".join(f"{count} with {world}" for world, count in sorted(self.worlds.items()))
        rows = {
            "steps": self.steps,
            "faults": f"{self.faults.total()} ({failed})",
            "drivers started": self.drivers,
            "groups of workers": f"{self.groups} ({worlds})",
            "changes of the group that cost no step": self.free,
            "steps made again": self.repeated,
            "largest deviation of a loss": f"{self.deviation:.1e}",
            "largest difference of a weight": f"{self.weights:.1e}",
            "steps that MLflow lacks": self.missing,
            "seconds": f"{self.seconds:.0f}",
            "wrong": len(self.wrong),
        }
        lines = ["| train kill run | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]
        return "\n".join(lines + [f"- {each}" for each in self.wrong[:50]])


class Losses:
    """A metric logger that keeps the losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.losses.append(metrics["loss"])

    def log_image(self, name: str, pixels: Any, step: int) -> None: ...

    def log_params(self, params: Any) -> None: ...

    def close(self) -> None: ...


def make_dataset(folder: Path) -> None:
    """Images of coloured blocks, as a dataset in the bucket."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(ROWS):
        colours = rng.integers(0, 256, (12, 12, 3), np.uint8)
        pixels = np.kron(colours, np.ones((8, 8, 1), np.uint8))
        Image.fromarray(pixels).save(folder / f"{number}.png")
    get_client().create_bucket(Bucket=BUCKET)
    config = PrepareConfig(scales=(2,), size=96, step=96, minimum=48, images_per_shard=8)
    prepare(str(folder), f"s3://{BUCKET}/dataset", config)


class TrainingFaults(Faults):
    """Those of a run beside those of its lab."""

    gone_s = GONE_S

    def __init__(self, lab: Lab, training: Training, rng: random.Random) -> None:
        super().__init__(lab, DECK, HOSTS[1:], rng)
        self.training = training

    def _worker(self) -> bool:
        return self.kill_one(self.training.workers())

    def _driver(self) -> bool:
        return kill_driver(self.training.process)


def configuration(steps: int) -> list[str]:
    """A network that two cores train in passing."""
    return [
        f"data.uri=s3://{BUCKET}/dataset", f"run.uri=s3://{BUCKET}/runs", "run.name=run",
        "model.blocks=2", "model.filters=16", "data.patch=12", f"data.batch={BATCH}",
        "precision=float32", "optimizer.lr=1e-4", f"optimizer.steps={steps}", "checkpoint.every=50",
        "logging.every=1", "workers.threads=1", "workers.max_failures=1000",
    ]  # fmt: skip


class Undisturbed:
    """The same run in this process: its losses and weights."""

    def __init__(self, folder: Path, steps: int) -> None:
        memory = Losses()
        config = load_config(None, [*configuration(steps), f"run.uri={folder / 'runs'}"])
        torch.set_num_threads(1)
        result = train(config, device="cpu", metrics=memory)
        self._folder, self._experiment = folder, config.logging.experiment
        self.losses = memory.losses
        self.weights = load_model(Path(str(result.weights))).state_dict()

    def compare(self, training: Training, report: Report) -> None:
        """Steps, rows, weights and what MLflow has."""
        check(training, self.losses, report)
        check_mlflow(self._experiment, self.losses, report)
        _, weights, _ = training.result()
        path = self._folder / "model.safetensors"
        connect(weights.rpartition("/")[0]).fetch("model.safetensors", path)
        for name, value in load_model(path).state_dict().items():
            report.weights = max(report.weights, float((value - self.weights[name]).abs().max()))


def tend(training: Training, report: Report) -> bool:
    """Start the driver again when it is dead; whether the run has ended."""
    if training.ended:
        return True
    if training.process.poll() is not None:
        if report.drivers >= DRIVER_STARTS:
            raise RuntimeError(training.log.read_text()[-4000:])
        report.drivers += 1
        training.start()
    return False


def check(training: Record, losses: list[float], report: Report) -> None:
    """Compare what was made with the undisturbed run."""
    groups = training.groups()
    report.groups = len(groups)
    report.worlds.update(group[0].world for group in groups)
    made: set[int] = set()
    for group in groups:
        first = group[0].number
        report.free += bool(made) and first == max(made) + 1
        report.repeated += len(made & {step.number for step in group})
        made |= {step.number for step in group}
        for step in group:
            right = losses[step.number - 1]
            report.deviation = max(report.deviation, abs(step.loss - right) / right)
    if made != set(range(1, report.steps + 1)):
        report.wrong.append(f"{report.steps - len(made)} steps were not told")
    if report.deviation > RELATIVE:
        report.wrong.append("a loss is not that of the undisturbed run")
    drawn = training.rows()
    if any(len(rows) > 1 for slots in drawn.values() for rows in slots.values()):
        report.wrong.append("a slot of a step was drawn in two ways")
    epoch = ROWS // BATCH
    for first in range(0, report.steps - epoch + 1, epoch):
        slots = [drawn.get(step, {}) for step in range(first, first + epoch)]
        rows = sorted(min(rows) for each in slots for rows in each.values())
        if rows != list(range(ROWS)):
            report.wrong.append(f"the epoch from step {first + 1} does not have every row once")


def check_mlflow(experiment_name: str, losses: list[float], report: Report) -> None:
    """Look for each step's loss in MLflow."""
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(experiment_name)
    runs = client.search_runs([experiment.experiment_id])
    told = {
        point.step: point.value for point in client.get_metric_history(runs[0].info.run_id, "loss")
    }
    report.missing = report.steps - len(told)
    if len(runs) != 1:
        report.wrong.append(f"MLflow has {len(runs)} runs")
    if any(
        abs(loss - losses[step - 1]) > RELATIVE * losses[step - 1] for step, loss in told.items()
    ):
        report.wrong.append("MLflow has a loss that is not that of the undisturbed run")


def run(
    folder: Path, seconds: float, steps: int, *, seed: int = 0, say: Callable[[str], None] = print
) -> Report:
    """The whole run in a fresh ``folder``."""
    rng, report = random.Random(seed), Report(steps)
    elastic = ["workers.count=3", "workers.minimum=1", "workers.resize_every_s=5"]
    with Lab(folder) as lab:
        lab.start_store("s3", "mlflow")  # first: Ray's processes have its variables from their node
        for name in HOSTS:
            lab.add(name)
        os.environ.update(lab.variables)
        os.environ["RAYSCALE_CACHE_DIR"] = str(folder / "cache")
        make_dataset(folder / "source")
        say("computing the undisturbed run ...")
        undisturbed = Undisturbed(folder, steps)
        start = time.monotonic()
        keys = [*configuration(steps), *elastic]
        training = Training(lab, HOSTS[0], folder / "training", keys)
        faults = TrainingFaults(lab, training, rng)
        report.faults = faults.made
        while not training.steps():
            time.sleep(0.2)
        begun = coming = time.monotonic()
        while not tend(training, report):
            time.sleep(0.2)
            now = time.monotonic()
            over = now > begun + seconds
            faults.mend(all_=over)
            if over:
                training.hurry()
            elif now > coming:
                coming = now + rng.uniform(2, 30)
                at = training.steps()[-1].number
                if kind := faults.make():
                    say(f"{now - begun:4.0f} s: {kind}, at step {at}")
        training.process.wait(60)
        report.seconds = time.monotonic() - start
        undisturbed.compare(training, report)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300, help="of faults (default: 300)")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if reason := lacking():
        print(f"no hosts: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="train-kill-run-") as folder:
        report = run(
            Path(folder), options.seconds, options.steps, seed=options.seed,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
    print(report.to_markdown())
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
