"""A benchmark's scores on a real MLflow server."""

from __future__ import annotations

import math
import sys

import pytest

from rayscale.errors import ConfigError
from rayscale.local import Addresses
from rayscale.registry import RegistryError, log_evaluation
from rayscale.registry.client import connect


def test_a_run_of_its_own_holds_figures_and_files(stack: Addresses) -> None:
    ids = [
        log_evaluation(
            "Set5 x2",
            params={"protocol": "edsr-paper-y"},
            metrics={"Set5/x2/edsr+/psnr": 38.2, "Set5/x2/edsr/ssim": 0.96, "flat": math.inf},
            files={"table.md": b"| set |", "crops/a ü.png": b"png"},
        )
        for _ in range(2)
    ]
    assert ids[0] != ids[1]
    client = connect()
    run = client.get_run(ids[0])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"protocol": "edsr-paper-y"}
    figures = dict(run.data.metrics)
    assert figures.pop("flat") >= sys.float_info.max  # what databases make of infinity
    assert figures == {"Set5/x2/edsr_/psnr": 38.2, "Set5/x2/edsr/ssim": 0.96}
    assert [f.path for f in client.list_artifacts(ids[0])] == ["crops", "table.md"]
    assert [f.path for f in client.list_artifacts(ids[0], "crops")] == ["crops/a ü.png"]


def test_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        log_evaluation("a", params={}, metrics={}, files={})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9"):
        log_evaluation("a", params={}, metrics={}, files={})
