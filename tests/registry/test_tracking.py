"""The logger against a real MLflow server that goes away and comes back."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from rayscale.local import Addresses
from rayscale.registry import MlflowLogger
from rayscale.settings import get_settings


class Relay:
    """A TCP port in front of a server; closed until ``open`` is called."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 0)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._server: socket.socket | None = None

    def open(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def close(self) -> None:
        if self._server:
            self._server.close()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return
            other = socket.create_connection(self._target)
            for pair in ((one, other), (other, one)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAYSCALE_CACHE_DIR", str(tmp_path))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture
def relay(stack: Addresses, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    relay = Relay(stack.mlflow)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", relay.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield relay
    relay.close()


def history(address: str, run_id: str | None, key: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    assert run_id
    found = MlflowClient(address).get_metric_history(run_id, key)
    return sorted((one.step, one.value) for one in found)


def test_a_run_and_its_resumption(stack: Addresses, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.mlflow)
    run = f"it's a run {uuid.uuid4().hex[:8]}"
    first = MlflowLogger("tracking", run, interval_s=0.1)
    first.log_params({"optimizer": {"lr": 1e-4}, "steps": 10})
    first.log_metrics({"loss": 3.0, "bad(name)": 1.0, "nan": float("nan")}, 1)
    first.log_image("val/butterfly", np.zeros((4, 5, 3), np.uint8), 1)
    first.log_image("no picture", np.zeros((2, 2, 7, 7), np.uint8), 1)
    first.close("KILLED")
    second = MlflowLogger("tracking", run, interval_s=0.1)
    second.log_params({"optimizer": {"lr": 1e-4}, "steps": 20})
    second.log_metrics({"loss": 2.0}, 2)
    second.close()
    second.close()

    assert second.run_id == first.run_id
    assert history(stack.mlflow, first.run_id, "loss") == [(1, 3.0), (2, 2.0)]
    assert history(stack.mlflow, first.run_id, "bad_name_") == [(1, 1.0)]
    client = MlflowClient(stack.mlflow)
    stored = client.get_run(str(first.run_id))
    assert stored.info.run_name == run
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"optimizer.lr": "0.0001", "steps": "10"}
    assert stored.data.tags["resumed.steps"] == "20"
    (image,) = client.list_artifacts(str(first.run_id), "images/val_butterfly")
    assert image.path.endswith("00000001.png")


def test_a_dead_server_delays_nothing_and_gets_all_later(relay: Relay, stack: Addresses) -> None:
    logger = MlflowLogger("tracking", uuid.uuid4().hex, interval_s=0.1)
    for step in range(2000):
        logger.log_metrics({"loss": float(step)}, step)
    logger.log_params({"a": 1})
    assert not logger.flush(1.0)
    relay.open()
    assert logger.flush(60.0)
    logger.close()
    assert history(stack.mlflow, logger.run_id, "loss") == [(i, float(i)) for i in range(2000)]


def test_what_a_run_could_not_deliver_is_sent_by_its_resumption(
    relay: Relay, stack: Addresses
) -> None:
    run = uuid.uuid4().hex
    lost = MlflowLogger("tracking", run, interval_s=0.1)
    lost.log_metrics({"loss": 1.0}, 1)
    lost.close(timeout_s=0.5)
    relay.open()
    again = MlflowLogger("tracking", run, interval_s=0.1)
    again.log_metrics({"loss": 2.0}, 2)
    again.close()
    assert history(stack.mlflow, again.run_id, "loss") == [(1, 1.0), (2, 2.0)]
    third = MlflowLogger("tracking", run, interval_s=0.1)
    third.close()
    assert len(history(stack.mlflow, third.run_id, "loss")) == 2
