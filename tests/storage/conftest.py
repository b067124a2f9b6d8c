"""A second real S3 server beside the embedded one: moto's, which knows versions and encryption."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
from tests.plugins.stack import Bucket

from rayscale.local import processes
from rayscale.storage.s3_client import get_client


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """The URL of the server; it keeps everything in memory and takes any keys."""
    pytest.importorskip("moto.server", reason="needs moto[s3]")
    port = processes.pick_port(None, ())
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not processes.answers(f"{url}/moto-api/"):
            assert server.poll() is None
            time.sleep(0.05)
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def moto(moto_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A fresh bucket there, with the variables set that lead to it."""
    for name, value in {
        "AWS_ENDPOINT_URL": moto_server,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid4().hex[:12]}"
    get_client().create_bucket(Bucket=bucket)
    return Bucket(moto_server, bucket, f"s3://{bucket}")
