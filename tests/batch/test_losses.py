"""A batch whose workers die, come and go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.batch.actors import kill_actors
from tests.batch.pictures import encoded, pixels

from rayscale import batch, storage
from rayscale.batch import Progress, upscale_bucket
from rayscale.local import Addresses
from rayscale.models.network import SuperResolver
from rayscale.options import Options


def test_a_killed_worker_costs_nothing(stack: Addresses, tmp_path: Path) -> None:
    for i in range(24):
        storage.connect(tmp_path / "in").write(f"{i}.png", encoded(pixels(i, shape=(200, 200, 3))))
    killed: list[int] = []

    def kill(now: Progress) -> None:
        if now.finished and not killed:
            killed.extend(kill_actors("UpscaleActor"))

    summary = upscale_bucket(
        tmp_path / "in",
        tmp_path / "out",
        model="bicubic",
        actors=1,
        progress=kill,
        options=Options(scale=2),
    )
    assert killed
    assert (summary.done, summary.failed) == (24, [])
    assert len(list((tmp_path / "out").glob("*.png"))) == 24


class Deadly(torch.nn.Module):
    """Takes its process along at the sight of an image 13 pixels wide."""

    def __init__(self, inner: SuperResolver) -> None:
        super().__init__()
        self.inner, self.spec = inner, inner.spec
        self.scales, self.channels, self.halo = inner.scales, inner.channels, inner.halo
        self.resolve_scale, self.path = inner.resolve_scale, inner.path
        self.keeps_means, self.linear, self.tile = inner.keeps_means, inner.linear, inner.tile

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        if x.shape[-1] == 13:
            os._exit(1)
        result: torch.Tensor = self.inner(x, scale)
        return result


@pytest.mark.slow
@pytest.mark.timeout(600)  # every death costs the start of a process
def test_an_image_that_kills_its_worker_is_one_failure(
    stack: Addresses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    job = sys.modules["rayscale.batch.job"]
    opened = job.open_method("bicubic", Options(scale=2))
    monkeypatch.setattr(job, "open_method", lambda *_: (Deadly(opened[0]), opened[1]))
    store = storage.connect(tmp_path / "in")
    deadly = (3, 4, 7)  # neighbours, and the last
    for i in range(8):
        store.write(f"{i}.png", encoded(pixels(i, shape=(12, 13 if i in deadly else 12, 3))))
    summary = upscale_bucket(
        tmp_path / "in", tmp_path / "out", model="bicubic", actors=1, options=Options(scale=2)
    )
    assert summary.done == 5, summary.failed
    failed = [(f"{i}.png", "worker_died") for i in deadly]
    assert [(row.key, row.error) for row in summary.failed] == failed


_ON_GPU = """
import sys
import ray
from rayscale.batch import upscale_bucket
from rayscale.options import Options

ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
summary = upscale_bucket(sys.argv[1], sys.argv[2], model="bicubic", options=Options(scale=2))
print(summary.done, len(summary.failed))
"""


@pytest.mark.slow
def test_workers_on_gpus(tmp_path: Path) -> None:
    """Ray is told of a GPU, which it hands out without asking for it; the worker finds none and takes the CPU."""
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    source = storage.connect(tmp_path / "in")
    for i in range(5):
        source.write(f"{i}.png", encoded(pixels(i)))
    with rasterio.open(
        tmp_path / "in/scene.tif", "w", driver="GTiff", width=700, height=600, count=1, dtype="uint8", crs="EPSG:32632"
    ) as scene:  # fmt: skip
        scene.write(pixels(9, shape=(1, 600, 700)))
    told = subprocess.run(
        [sys.executable, "-c", _ON_GPU, tmp_path / "in", tmp_path / "out"],
        capture_output=True, text=True, timeout=240, check=False,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "RAYSCALE_SCENE_PIXELS": "100000",
            "PYTHONPATH": str(Path(batch.__file__).parents[2]),
        },
    )  # fmt: skip
    assert told.stdout == "6 0\n", told.stderr


_ON_A_GROWING_CLUSTER = """
import os, shutil, subprocess, sys, tempfile, threading, time
from pathlib import Path

# Ray notes there which cluster is the newest: others are not to join this one. Names of sockets are short.
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-")
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from rayscale.batch import job, upscale_bucket
from rayscale.options import Options

WORKERS, COUNT, DEADLINE = Path(sys.argv[3]), 3, time.time() + 120
cloudpickle.register_pickle_by_value(sys.modules["__main__"])


def begun():
    return len(list(WORKERS.iterdir()))


network, method = job.open_method("bicubic", Options(scale=2))


class Patient(type(network)):
    # Leaves a file of its process, and works when as many have begun as the cluster has room for at last.
    def forward(self, x, scale):
        (WORKERS / str(os.getpid())).touch()
        while begun() < COUNT and time.time() < DEADLINE:
            time.sleep(0.1)
        return super().forward(x, scale)


def grow():
    while not begun():
        time.sleep(0.1)
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster.address}"]
    nodes.append(subprocess.Popen([*start, f"--num-cpus={COUNT - 1}", "--block"], stdout=sys.stderr))


nodes = []
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
try:
    os.environ["RAY_ADDRESS"] = cluster.address
    threading.Thread(target=grow, daemon=True).start()
    network.__class__ = Patient
    job.open_method = lambda *_: (network, method)
    summary = upscale_bucket(sys.argv[1], sys.argv[2], model="bicubic", options=Options(scale=2))
    print(summary.done, len(summary.failed), begun())
finally:
    for node in nodes:
        node.terminate()
        node.wait()
    ray.shutdown()
    cluster.shutdown()
    shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)
"""


@pytest.mark.stack
def test_workers_follow_a_cluster_that_grows(tmp_path: Path) -> None:
    """A second node joins when the first worker is at work. It takes half a minute: so often Ray Data looks at the cluster."""
    source = storage.connect(tmp_path / "in")
    for i in range(40):
        source.write(f"{i}.png", encoded(pixels(i)))
    (tmp_path / "workers").mkdir()
    told = subprocess.run(
        [sys.executable, "-c", _ON_A_GROWING_CLUSTER, *(tmp_path / name for name in ("in", "out", "workers"))],
        capture_output=True, text=True, timeout=240, check=False,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "PYTHONPATH": str(Path(batch.__file__).parents[2]),
        },
    )  # fmt: skip
    assert told.stdout.splitlines()[-1:] == ["40 0 3"], told.stderr
