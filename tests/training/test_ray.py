"""Two workers on a real Ray: one is killed, the run recovers, and the result is that of an undisturbed one."""

from __future__ import annotations

import functools
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from rayscale import cluster
from rayscale.errors import ConfigError
from rayscale.local import Addresses
from rayscale.models.weights import load_model
from rayscale.training.config import TrainConfig
from rayscale.training.guard import NonFiniteLossError
from rayscale.training.loop import train
from rayscale.training.network import interface_of
from rayscale.training.ray import _resources, fit
from rayscale.training.run import Run

Make = Callable[..., TrainConfig]

pytestmark = pytest.mark.timeout(600)  # starting workers takes minutes on a busy machine


@pytest.fixture(scope="module")
def ray_cluster(stack: Addresses) -> Iterator[None]:
    cluster.connect(log_to_driver=False)
    yield
    cluster.shutdown()


class SlowLogger:
    """In rank 0's process: tells its pid; the first waits at step 15 until it is killed and another is there."""

    run_id = "slow"

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.folder = folder
        with (folder / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        (folder / "cluster").write_text(os.environ["RAY_ADDRESS"])
        (folder / "interface").write_text(os.environ["GLOO_SOCKET_IFNAME"])

    def log_metrics(self, metrics: Any, step: int) -> None:
        with (self.folder / "steps").open("a") as file:
            file.write(f"{step}\n")
        while step == 15 and len((self.folder / "pids").read_text().split()) == 1:
            time.sleep(0.05)

    def log_image(self, name: str, pixels: Any, step: int) -> None: ...

    def log_params(self, params: Any) -> None: ...

    def close(self) -> None: ...


def kill_after_checkpoint(run: Run, folder: Path, stop: threading.Event) -> None:
    """Kill rank 0 when it waits at step 15 and the checkpoint of step 10 is there, so that five steps are lost."""
    steps = folder / "steps"
    while not stop.wait(0.05):
        waits = steps.exists() and "15" in steps.read_text().split()
        if waits and any(step >= 10 for step in run.checkpoints.steps()):
            os.kill(int((folder / "pids").read_text().split()[0]), signal.SIGKILL)
            return


def assert_exported(run: str, steps: int) -> None:
    """The node serves the last figures of a run to Prometheus, once Ray has collected them."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = rf'ray_rayscale_train_step\{{.*run="{run}".*\}} {steps}\.0'
    for _ in range(600):
        text = urllib.request.urlopen(url, timeout=30).read().decode()
        if re.search(wanted, text):
            break
        time.sleep(0.1)
    for name in ("loss", "steps_per_s", "data_wait", "grad_norm", "slowest_rank", "seconds_left"):
        assert re.search(rf'ray_rayscale_train_{name}\{{.*run="{run}"', text), name


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_costs_nothing_but_time(
    make_config: Make, small_world: Path, tmp_path: Path
) -> None:
    overrides = ["optimizer.steps=40", "checkpoint.every=10", "logging.every=1"]
    undisturbed = train(make_config("run.name=plain", *overrides), device="cpu")
    config = make_config("run.name=killed", "workers.count=2", "workers.threads=1", *overrides)
    stop, address = threading.Event(), os.environ.get("RAY_ADDRESS")
    thread = threading.Thread(
        target=kill_after_checkpoint, args=(Run(config.identified()), tmp_path, stop)
    )
    thread.start()
    try:
        result = fit(config, logger_factory=functools.partial(SlowLogger, tmp_path), verbose=False)
    finally:
        stop.set()
        thread.join()
    assert result.complete
    assert result.workers == 2
    assert result.run_id == "slow"
    assert_exported(config.identified().run.name or "", steps=40)
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2, "the worker was not replaced"
    steps = [int(step) for step in (tmp_path / "steps").read_text().split()]
    restart = next(i for i in range(1, len(steps)) if steps[i] <= steps[i - 1])
    assert steps[restart] % 10 == 1, "it goes on right after a checkpoint"
    assert steps[restart] > 10
    assert steps[-1] == 40
    expected = load_model(Path(str(undisturbed.weights))).state_dict()
    for key, value in load_model(Path(str(result.weights))).state_dict().items():
        assert torch.allclose(value, expected[key], atol=2e-4), key
    assert fit(config).sha256 == result.sha256  # finished: at once
    benchmark = [f"validation.uri={small_world / 'validation'}", "workers.count=2"]
    scored = fit(make_config("run.name=killed", *benchmark, *overrides), verbose=False)
    assert (scored.sha256, scored.history[-1]["psnr"]) == (result.sha256, scored.metrics["psnr"])
    assert (tmp_path / "interface").read_text() == interface_of("127.0.0.1"), "both on one node"
    # Ray Train's cleaner asks the cluster of this variable: without it, any other of the machine.
    assert (tmp_path / "cluster").read_text() == ray.get_runtime_context().gcs_address
    assert os.environ.get("RAY_ADDRESS") == address, "a Ray that is started later is another"


class FailsOnce(WorkerGroupCallback):
    """In the controller: the first group of workers cannot be started."""

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "failed"

    def after_worker_group_start(self, worker_group: Any) -> None:
        if not self.mark.exists():
            self.mark.touch()
            raise RuntimeError("connectFullMesh failed")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_fail_to_start_are_started_again_but_a_final_error_is_raised_as_it_is(
    make_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    factory = functools.partial(SlowLogger, tmp_path)
    with pytest.raises(NonFiniteLossError, match="not finite at step 2"):
        fit(
            make_config("optimizer.lr=1e30"),
            logger_factory=factory, callbacks=[FailsOnce(tmp_path)], verbose=False,
        )  # fmt: skip
    assert "the workers could not be started (connectFullMesh failed)" in capsys.readouterr().out
    assert len((tmp_path / "pids").read_text().split()) == 1


def test_an_address_belongs_to_an_interface() -> None:
    assert interface_of("127.0.0.1") == interface_of("127.0.0.2") == interface_of("::1") == "lo"
    assert interface_of("203.0.113.254") is None
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family == socket.AF_INET and name != "lo":
                assert interface_of(entry.address) == name


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_gpus_that_are_not_there_are_not_waited_for(make_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"1 CPU and 1 GPU .*\(2 CPU and 0 GPU\); change workers"):
        fit(make_config("workers.gpu=true"))


def test_workers_fit_a_machine_with_fewer_cores(make_config: Make) -> None:
    one = [{"Alive": True, "Resources": {"CPU": 2.0}}]
    assert _resources(make_config("workers.count=2"), False, one) == {"CPU": 1.0}
    assert _resources(make_config("workers.count=4"), False, one) == {"CPU": 0.5}
    assert _resources(make_config("workers.count=4"), True, one) == {"CPU": 0.5, "GPU": 1.0}
    assert _resources(make_config("workers.count=4"), False, one * 2) == {"CPU": 1.0}
    assert _resources(make_config("workers.cpus=0.25"), False, one) == {"CPU": 0.25}
