from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rayscale import cluster, local
from rayscale.errors import ConfigError, RayscaleError


@pytest.fixture
def _not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh process, whatever Ray the tests before have joined."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.usefixtures("_not_connected")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_answers(address: str) -> None:
    with pytest.raises(RayscaleError, match=r"nothing answers at RAY_ADDRESS=.*unset RAY_ADDRESS"):
        cluster.connect(address=address, timeout_s=0.5)


def test_limits_reach_the_workers_and_keys_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RAYSCALE_S3_REQUESTER_PAYS": "true",
        "RAYSCALE_S3_KMS_KEY_ID": "k",
        "RAYSCALE_STORAGE_ATTEMPTS": "3",
        "RAYSCALE_HOME": "/here",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "MLFLOW_TRACKING_URI": "http://ann:secret@host",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"env_vars": {"RAYSCALE_S3_KMS_KEY_ID": "of the job"}}}',
    }.items():
        monkeypatch.setenv(name, value)
    told = cluster._runtime_env()
    assert told["env_vars"]["RAYSCALE_S3_REQUESTER_PAYS"] == "true"
    assert told["env_vars"]["RAYSCALE_STORAGE_ATTEMPTS"] == "3"
    # Ray refuses what the job has set already.
    assert not {"RAYSCALE_S3_KMS_KEY_ID", "RAYSCALE_HOME"} & set(told["env_vars"])
    assert "secret" not in str(told)


@pytest.mark.usefixtures("_not_connected")
def test_an_address_that_is_none() -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        cluster.connect(address="localhost")


def test_variables_set_after_ray_was_imported_count(
    stack: local.Addresses, stack_home: Path, checkout: Path
) -> None:
    code = """
import json, os, sys
for name in [n for n in os.environ if n.startswith("RAY_")]:
    del os.environ[name]
import ray
os.environ.update(json.loads(sys.argv[1]))
from rayscale import cluster
print(cluster.connect(timeout_s=10))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(local.environment(stack_home))],
        cwd=checkout / "platform", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == stack.ray, done.stderr


@pytest.mark.parametrize(
    ("gpus", "device", "address", "takes"),
    [
        (2, "auto", "", True), (2, "cuda", "", True), (2, "cpu", "", False), (0, "auto", "", False),
        (0, "cpu", "", False), (0, "cuda", "head:6379", True),
    ],
)  # fmt: skip
def test_who_asks_for_gpus(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gpus: int, device: str, address: str, takes: bool
) -> None:  # fmt: skip
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": float(gpus)})
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster.takes_gpus(device) is takes
    assert ("until its autoscaler adds one" in caplog.text) is (takes and not gpus)


def test_what_the_cluster_has_no_room_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Places are counted node by node; what others hold will be free; a node that is gone has none."""
    import ray

    small, large = {"CPU": 2.0, "memory": 1e9}, {"CPU": 16.0, "GPU": 2.0}
    nodes = [{"Alive": True, "Resources": small}, {"Alive": True, "Resources": large}]
    nodes.append({"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}})
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    cluster.check_room(2, {"CPU": 1.0, "GPU": 1.0}, "")
    cluster.check_room(18, {"CPU": 1.0}, "")
    with pytest.raises(ConfigError, match=r"3 x 1 CPU and 1 GPU are needed, but the cluster has 2 nodes "
                       r"\(2 CPU and 0 GPU; 16 CPU and 2 GPU\); take fewer"):  # fmt: skip
        cluster.check_room(3, {"CPU": 1.0, "GPU": 1.0}, "take fewer")
    with pytest.raises(ConfigError, match="1 x 17 CPU is needed"):  # 18 in all, on no node
        cluster.check_room(1, {"CPU": 17.0}, "take fewer")
    cluster.check_room(1, {"CPU": 17.0}, "take fewer", wait=True)
    assert capsys.readouterr().out.startswith("waiting: 1 x 17 CPU is needed, but the cluster has")


def test_cuda_needs_a_gpu_where_none_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="this machine has no GPU"):
        cluster.takes_gpus("cuda")
