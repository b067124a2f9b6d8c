from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rayscale import cluster, local
from rayscale.cluster import connection
from rayscale.errors import ConfigError, RayscaleError


@pytest.fixture
def _not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh process, whatever Ray the tests before have joined."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.usefixtures("_not_connected")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_answers(address: str) -> None:
    with pytest.raises(RayscaleError, match=r"nothing answered at RAY_ADDRESS=.*unset RAY_ADDRESS"):
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
    told = connection._runtime_env()
    assert told["env_vars"]["RAYSCALE_S3_REQUESTER_PAYS"] == "true"
    assert told["env_vars"]["RAYSCALE_STORAGE_ATTEMPTS"] == "3"
    # Ray refuses what the job has set already.
    assert not {"RAYSCALE_S3_KMS_KEY_ID", "RAYSCALE_HOME"} & set(told["env_vars"])
    assert "secret" not in str(told)


def test_each_user_of_a_machine_has_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A common one would belong to whoever came first."""
    import ray

    nodes = [{"Alive": True}, {"Alive": False}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    folders = set()
    for user in (1000, 1001):
        monkeypatch.setattr("os.getuid", lambda user=user: user)
        folders.add(connection.scratch("s3://runs/a/"))
    assert len(folders) == 2
    assert connection.scratch("s3://runs/a/", grows=True) == "s3://runs/a/ray"
    nodes.append({"Alive": True})
    assert connection.scratch("s3://runs/a/") == "s3://runs/a/ray"


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
os.environ.update(json.load(sys.stdin))
from rayscale import cluster
print(cluster.connect(timeout_s=10))
"""
    # Not as an argument: Ray shows those of drivers, and there are keys among them.
    variables = json.dumps(local.environment(stack_home))
    done = subprocess.run(
        [sys.executable, "-c", code], input=variables,
        cwd=checkout / "platform", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == stack.ray, done.stderr
