"""Training on hosts that come and go, without a notice and with one: each step once, and the curve of one process."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest
import torch
from infra.lab.hosts import Lab
from infra.lab.training import Step, Training
from tests.plugins.hosts import HEAD, await_that

from rayscale.data import PrepareConfig, prepare
from rayscale.models.weights import load_model
from rayscale.storage import connect
from rayscale.storage.s3_client import get_client
from rayscale.training.checkpoint import STATE
from rayscale.training.config import load_config
from rayscale.training.loop import train
from rayscale.training.run import Run

STEPS, BATCH, ROWS = 400, 6, 12
KEYS = [
    "model.blocks=1", "model.filters=8", "data.patch=12", f"data.batch={BATCH}", "precision=float32",
    "optimizer.lr=1e-4", f"optimizer.steps={STEPS}", "logging.every=1", "workers.threads=1",
    "workers.max_failures=20",
]  # fmt: skip


class Memory:
    """A metric logger that keeps the losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.losses.append(metrics["loss"])

    def log_image(self, name: str, pixels: object, step: int) -> None: ...

    def log_params(self, params: object) -> None: ...

    def close(self) -> None: ...


class Undisturbed(NamedTuple):
    losses: list[float]
    sha256: str | None
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def bucket(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bucket of the lab with a dataset."""
    folder = tmp_path_factory.mktemp("source")
    random = np.random.default_rng(0)
    for number in range(ROWS):
        colours = random.integers(0, 256, (12, 12, 3), np.uint8)
        PIL.Image.fromarray(np.kron(colours, np.ones((8, 8, 1), np.uint8))).save(
            folder / f"{number}.png"
        )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in lab.variables.items():
            patch.setenv(name, value)
        get_client().create_bucket(Bucket="training")
        prepare(
            str(folder),
            "s3://training/dataset",
            PrepareConfig(scales=(2,), size=96, step=96, minimum=48),
        )
    return "s3://training"


@pytest.fixture(scope="module")
def undisturbed(bucket: str, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """What one process comes to."""
    memory, threads = Memory(), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in lab.variables.items():
            patch.setenv(name, value)
        patch.setenv("RAYSCALE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        torch.set_num_threads(1)
        runs = f"run.uri={tmp_path_factory.mktemp('runs')}"
        config = load_config(None, [f"data.uri={bucket}/dataset", runs, *KEYS])
        result = train(config, device="cpu", metrics=memory)
        torch.set_num_threads(threads)
    return Undisturbed(
        memory.losses, result.sha256, load_model(Path(str(result.weights))).state_dict()
    )


def await_group(training: Training, count: int, steps: int = 5) -> list[list[Step]]:
    """Until the group of this number, counted from 1, has made so many steps."""

    def there() -> bool:
        assert training.process.poll() is None, training.log.read_text()[-4000:]
        groups = training.groups()
        return len(groups) > count or (len(groups) == count and len(groups[-1]) >= steps)

    await_that(there, training.log)
    return training.groups()


def result_of(training: Training) -> tuple[str, str, int]:
    assert training.process.wait(300) == 0, training.log.read_text()[-4000:]
    return training.result()


def assert_every_row_once_per_epoch(training: Training) -> None:
    """Whoever drew a slot of a step drew the same row, and in each epoch every row of the dataset comes once."""
    drawn = training.rows()
    assert all(len(rows) == 1 for slots in drawn.values() for rows in slots.values())
    epoch = -(-ROWS // BATCH)
    for first in range(0, STEPS - epoch + 1, epoch):
        rows = [
            min(drawn[step][slot]) for step in range(first, first + epoch) for slot in range(BATCH)
        ]
        assert sorted(rows) == list(range(ROWS)), first


@pytest.fixture
def folder(lab_s3: Lab, tmp_path: Path) -> Iterator[Path]:
    """One that all hosts see; but the head and the store, no host is left after the test."""
    yield lab_s3.folder / tmp_path.name
    for name in [name for name in lab_s3.hosts if name not in (HEAD, "store")]:
        lab_s3.pull(name)


@pytest.mark.timeout(900)
def test_a_run_grows_and_shrinks_with_its_hosts(
    lab_s3: Lab, bucket: str, undisturbed: Undisturbed, folder: Path, tmp_path: Path
) -> None:
    """One worker, two, one, two, one: hosts join, are slow, go without a word and with a notice, and the last never comes back.

    Only what a loss without a word costs is made again; the losses are those of one process.
    """
    elastic = ["workers.count=3", "workers.minimum=1", "workers.resize_every_s=1"]
    places = [f"data.uri={bucket}/dataset", f"run.uri={bucket}/elastic", "run.name=run"]
    keys = [*places, "checkpoint.every=1000", *KEYS, *elastic]
    checkpoints = Run(load_config(None, keys).identified()).checkpoints
    training = Training(lab_s3, HEAD, folder, keys)
    await_group(training, 1)
    lab_s3.add("host-2")
    first, second = await_group(training, 2)
    planned = [first[-1].number]
    assert checkpoints.steps() == planned, "the group that was to grow saved its last step"
    assert second[0].number == planned[0] + 1, "so no step was made again"
    (slow,) = training.workers("host-2")
    slow.suspend()  # the other waits for it, for a while
    time.sleep(5)
    slow.resume()
    await_group(training, 2, len(second) + 5)

    lab_s3.pull("host-2")
    third = await_group(training, 3)[2]
    assert third[0].number == planned[0] + 1, "it goes on from the last checkpoint"

    lab_s3.join("host-2")
    *_, third, fourth = await_group(training, 4)
    planned.append(third[-1].number)
    assert (checkpoints.steps(), fourth[0].number) == (planned, planned[-1] + 1)

    lab_s3.notice("host-2", seconds=25)  # after which Ray Train no longer waits for its worker
    await_that(lambda: len(checkpoints.steps()) > len(planned), training.log)
    noticed = checkpoints.steps()[-1]
    lab_s3.pull("host-2")
    training.hurry()
    _, weights, workers = result_of(training)
    groups = training.groups()
    assert [group[0].world for group in groups] == [1, 2, 1, 2, 1]
    assert groups[-1][0].number == noticed + 1
    assert groups[-1][-1].number == STEPS
    assert workers == 1
    assert_every_row_once_per_epoch(training)
    for step in itertools.chain(*groups):
        assert step.loss == pytest.approx(undisturbed.losses[step.number - 1], rel=1e-3), step
    connect(weights.rpartition("/")[0]).fetch("model.safetensors", tmp_path / "model.safetensors")
    for name, value in load_model(tmp_path / "model.safetensors").state_dict().items():
        assert torch.allclose(value, undisturbed.weights[name], atol=1e-3), name


@pytest.mark.timeout(900)
def test_s3_fails_driver_and_head_are_killed_and_the_same_command_goes_on(
    lab_s3: Lab, bucket: str, undisturbed: Undisturbed, folder: Path
) -> None:
    """On the same world the run ends with the same bytes, as if nothing had been, and though the disk for shards is full.

    The checkpoint that is the newest when the driver dies is damaged.
    """
    full = ["sh", "-c", "mkdir -p /tmp/cache && mount -t tmpfs -o size=16k full /tmp/cache"]
    assert lab_s3.start(HEAD, full, "mount.log").wait() == 0  # until the host starts anew
    places = [f"data.uri={bucket}/dataset", f"run.uri={bucket}/killed", "run.name=run"]
    keys = [*places, "checkpoint.every=10", *KEYS]
    training = Training(lab_s3, HEAD, folder, keys)
    checkpoints = Run(load_config(None, keys).identified()).checkpoints

    def await_checkpoint(after: int = 0) -> int:
        def there() -> bool:
            if training.process.poll() is not None:
                training.start()
            return (checkpoints.steps() or [0])[-1] > after

        await_that(there, training.log)
        return checkpoints.steps()[-1]

    def await_middle() -> None:  # of two checkpoints, so that steps are made again
        await_that(lambda: 3 <= training.steps()[-1].number % 10 <= 6, training.log)

    saved = await_checkpoint()
    for mode in ("reset", "cut", "gone"):
        before = lab_s3.broken("s3")
        lab_s3.break_store("s3", mode)
        await_that(lambda before=before: lab_s3.broken("s3") > before + 3, training.log)
        lab_s3.break_store("s3", "")
        saved = await_checkpoint(saved)

    await_middle()
    killed = len(training.groups())
    os.killpg(training.process.pid, signal.SIGKILL)
    training.process.wait()
    cached = lab_s3.start(HEAD, ["sh", "-c", "ls /tmp/cache/shards/*.arrow"], "cached.log")
    assert cached.wait() != 0, "no shard fits"
    *_, before, newest = checkpoints.steps()
    state = f"step-{newest:08d}/{STATE}"
    checkpoints.store.write(state, checkpoints.store.read(state)[:5000])
    training.start()
    second = await_group(training, killed + 1)[killed]
    assert second[0].number == before + 1
    await_checkpoint(newest)
    await_middle()
    killed = len(training.groups())
    lab_s3.join(HEAD)
    training.hurry()
    training.start()
    sha256, _, _ = result_of(training)
    third = training.groups()[killed]
    assert third[0].number > second[0].number
    assert sha256 == undisturbed.sha256
    steps = {step.number: step.loss for step in training.steps()}
    assert [steps[number + 1] for number in range(STEPS)] == undisturbed.losses
