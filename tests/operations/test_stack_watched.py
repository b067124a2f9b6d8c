"""The local stack with its Prometheus: what really ran there is seen by every query of every dashboard, and by every alert."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import yaml

from rayscale import local
from rayscale.imaging import Image, write_image
from rayscale.local import prometheus
from rayscale.machine import joules
from rayscale.operations.figures import every_query
from rayscale.operations.prometheus import INTERVAL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        prometheus.program() is None,
        reason="Prometheus is not installed (apt-get install prometheus)",
    ),
]

WITHOUT_DATA = {
    **({} if torch.cuda.is_available() else {"GPU": "there is no GPU"}),
    **({} if joules() is not None else {"Energy by run": "there are no counters to read"}),
}
"""Figures that have no data in a stack that is sound, and why."""
NOT_THERE = {
    "probe_ssl_earliest_cert_expiry": "of the blackbox exporter, which asks the proxy with TLS",
    "certmanager_certificate_expiration_timestamp_seconds": "of cert-manager, on Kubernetes",
}
"""Metrics of alerts that others than the stack export."""
KEY = "a-key-of-the-watched-stack"
PATIENCE_S = 300.0


class Stack:
    """A stack of this test alone: its variables, and what its Prometheus has seen since it began."""

    def __init__(self, home: Path) -> None:
        self.addresses = local.up(
            home, (*local.SERVICES, local.MONITORING), num_cpus=2, fixed_ports=False
        )
        self.environment = {**os.environ, **local.environment(home)}
        self.began = time.time()

    def run(self, checkout: Path, *arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=checkout, env=self.environment, text=True, timeout=600, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    def ask(self, path: str, **values: object) -> Any:
        text = urllib.parse.urlencode(values)
        address = f"{self.addresses.prometheus}/api/v1/{path}?{text}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            return json.load(answer)["data"]

    def has_data(self, expression: str) -> bool:
        """Whether it had a number at any time: what ran is over, and its figures go with it."""
        found = self.ask("query_range", query=expression, start=self.began, end=time.time(), step=1)
        return any(
            math.isfinite(float(value)) for each in found["result"] for _, value in each["values"]
        )


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    home = tmp_path / "home"
    monkeypatch.setenv(
        "RAYSCALE_SERVE_API_KEYS", KEY
    )  # Ray hands what it started with to the service
    try:
        yield Stack(home)
    finally:
        local.down(home)


@contextmanager
def _asking(address: str) -> Iterator[None]:
    """A client that sends an image and something that is none, again and again: rates are of what changes."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
            while not done.wait(1.0):
                for body in (write_image(Image(pixels)), b"no image"):
                    client.post(f"{address}/v1/upscale?model=bicubic&scale=2", content=body)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _names(expression: str) -> set[str]:
    """The metrics of an expression of an alert."""
    return set(re.findall(r"\b(?:up|(?:ray|rayscale|probe|certmanager)_\w+)\b", expression))


def test_every_query_and_every_alert_sees_what_ran(
    watched: Stack, checkout: Path, dataset: Path, tmp_path: Path
) -> None:
    """A training and a batch that are over in seconds, and a service with its requests; nothing is made up."""
    watched.run(checkout, "-m", "rayscale", "serve", "--model", "bicubic")
    settings = {
        "data.uri": dataset, "run.uri": tmp_path / "runs", "model.blocks": 1, "model.filters": 4, "data.patch": 12,
        "data.batch": 2, "optimizer.steps": 20, "checkpoint.every": 5, "logging.every": 5, "workers.threads": 1,
    }  # fmt: skip
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    watched.run(checkout, "jobs/train_edsr.py", "--workers", 1, *overrides)
    pictures = ("--model", "bicubic", "--scale", 2)
    watched.run(
        checkout, "jobs/upscale_bucket.py", tmp_path / "source", tmp_path / "out", *pictures
    )

    queries = {(name, figure.title, query.over(INTERVAL)) for name, figure, query in every_query()}
    (group,) = yaml.safe_load(prometheus.RULES.read_text())["groups"]
    metrics = {rule["alert"]: _names(rule["expr"]) for rule in group["rules"]}
    assert all(metrics.values())
    with _asking(watched.addresses.serve):
        end = time.monotonic() + PATIENCE_S
        while True:
            silent = {(name, title) for name, title, text in queries if not watched.has_data(text)}
            missing = {
                each for each in set().union(*metrics.values()) if not watched.has_data(each)
            }
            as_it_must = {title for _, title in silent} == set(WITHOUT_DATA)
            if (as_it_must and missing == set(NOT_THERE)) or time.monotonic() > end:
                break
            time.sleep(2)
    assert {title for _, title in silent} == set(WITHOUT_DATA), silent
    assert missing == set(NOT_THERE)
    needing = {figure.title for _, figure, _ in every_query() if figure.needs}
    assert set(WITHOUT_DATA) <= needing  # which the table says too

    rules = [rule for each in watched.ask("rules")["groups"] for rule in each["rules"]]
    assert {rule["name"] for rule in rules} == set(metrics)
    assert {rule["health"] for rule in rules} == {"ok"}
