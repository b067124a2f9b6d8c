"""The real S3 server, MLflow and Ray for tests: the embedded stack, on free ports, started once per run.

``s3``     a fresh bucket on the S3 server, whose variables are set for the test
``stack``  S3, MLflow and Ray with their variables set from then on (half a minute: ask for it only if needed)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from rayscale import cluster, local


@dataclass(frozen=True)
class Bucket:
    """An empty bucket: ``s3://<name>``."""

    endpoint: str
    name: str
    uri: str


WEBHOOK_SECRET = "a-secret-that-signs-webhooks"

_SHARED = {"stack_home", "s3_server", "s3", "stack", "moto_server", "moto"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the stack: it runs in one process, which shares one; all else runs in others beside it."""
    for item in items:
        asked = {*getattr(item, "fixturenames", ())}
        if call := getattr(item, "callspec", None):  # a fixture may name another by its parameter
            asked |= {value for value in call.params.values() if isinstance(value, str)}
        if _SHARED & asked:
            item.add_marker(pytest.mark.stack)


@pytest.fixture(scope="session")
def stack_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of this run's stack; whatever runs there ends with the run."""
    home = tmp_path_factory.mktemp("stack")
    yield home
    local.down(home)


@pytest.fixture(scope="session")
def s3_server(stack_home: Path) -> local.Addresses:
    """The S3 server alone."""
    pytest.importorskip("swift", reason="the S3 server of the tests needs rayscale[local]")
    return local.up(stack_home, services=("s3",), fixed_ports=False)


@pytest.fixture
def s3(s3_server: local.Addresses, stack_home: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A fresh bucket, with the variables set that lead boto3 and rayscale to it."""
    from rayscale.storage.s3_client import get_client

    for name, value in local.environment(stack_home).items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    bucket = f"test-{uuid4().hex[:12]}"
    get_client().create_bucket(Bucket=bucket)
    return Bucket(s3_server.s3, bucket, f"s3://{bucket}")


@pytest.fixture(scope="session")
def stack(s3_server: local.Addresses, stack_home: Path) -> Iterator[local.Addresses]:
    """S3, MLflow and Ray (2 CPUs), their variables set for the rest of the run."""
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # secrets are never handed to a cluster; this is its own
        patch.setenv("RAYSCALE_SERVE_WEBHOOK_SECRET", WEBHOOK_SECRET)
        addresses = local.up(stack_home, num_cpus=2, fixed_ports=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in local.environment(stack_home).items():
            patch.setenv(name, value)
        yield addresses
        # What Ray Tune does when a process ends would wait for a cluster that is gone, until Ray ends the process as failed.
        cluster.shutdown()
