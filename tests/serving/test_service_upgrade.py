"""The deployed service gets another configuration; after all other tests of it, as all replicas are replaced."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.serving.deployed import Line, client_of, replicas, until

from rayscale.serving.deploy import CONFIG, deploy


def test_an_upgrade_under_load_loses_nothing_and_models_sleep_until_they_are_needed(
    service: str, line: Line, http: httpx.Client, tools: Any, tmp_path: Path
) -> None:
    """By a configuration that lets the models go to zero, which probes do not undo."""
    config = yaml.safe_load(CONFIG.read_text())
    scaling = {"min_replicas": 0, "max_replicas": 1, "downscale_delay_s": 1, "upscale_delay_s": 0}
    upscaling = config["applications"][0]["deployments"][1]
    upscaling["autoscaling_config"] |= scaling
    changed = tmp_path / "config.yaml"
    changed.write_text(yaml.safe_dump(config))
    data, statuses, stop = tools.encoded(8, 8), [], threading.Event()

    def ask() -> None:
        with client_of(service) as client:
            while not stop.is_set():
                statuses.append(client.post("/v1/upscale?model=bicubic", content=data).status_code)

    old = {*replicas("Upscaling"), *replicas("Ingress")}
    with ThreadPoolExecutor(2) as pool, pytest.MonkeyPatch.context() as told:
        try:
            asked = [pool.submit(ask) for _ in range(2)]
            until(lambda: len(statuses) > 5)
            told.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{line.port}")
            deploy(changed, model="roofs@prod")
            until(lambda: not old & {*replicas("Upscaling"), *replicas("Ingress")}, 180)
        finally:
            stop.set()
        for each in asked:
            each.result()
    assert set(statuses) == {200}
    until(lambda: not replicas("Upscaling"), 90)
    assert [http.get("/readyz").status_code for _ in range(5)] == [200] * 5
    assert http.get("/metrics").status_code == 200
    assert not replicas("Upscaling")
    assert http.post("/v1/upscale?model=bicubic", content=data).status_code == 200
    assert len(replicas("Upscaling")) == 1
