"""Servers beside the embedded one: moto's, a real one that knows versions and encryption, and a double."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.plugins.stack import Bucket
from tests.storage.double import Double

from rayscale.local import processes
from rayscale.settings import get_settings
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


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Double]:
    server = Double()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rayscale.storage.s3_client._FIRST_PAUSE_S", 0.01)
    get_settings.cache_clear()
    yield server
    server.shutdown()
    server.server_close()
    get_settings.cache_clear()
