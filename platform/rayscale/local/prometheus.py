"""Prometheus of the embedded stack, where the machine has one: it asks Ray and the service every few seconds.

It listens on loopback only and knows no users: what it holds are figures, whose labels name keys by their ids and nobody else.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import yaml

from rayscale.files import replacing
from rayscale.local.processes import Service, answers
from rayscale.local.ray import temporary_folder

RULES = Path(__file__).parents[1] / "operations/monitoring/alerts.yaml"
"""The alerts, which come with the package."""


def program() -> str | None:
    """Where the program is; None where it is not installed."""
    return shutil.which("prometheus")


def service(home: Path, port: int, serve: int) -> Service:
    """How the stack runs Prometheus; ``serve`` is the port of the HTTP service."""
    folder = home / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    discovery = temporary_folder(home) / "prom_metrics_service_discovery.json"
    with replacing(folder / "prometheus.yml", private=True) as file:
        file.write(configuration(discovery, f"127.0.0.1:{serve}", _key(folder)).encode())
    address = f"http://127.0.0.1:{port}"
    return Service(
        name="prometheus",
        address=address,
        command=[
            program() or "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=15d",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        environment={},
        cwd=folder,
        ports=frozenset([port]),
        ready=lambda: answers(f"{address}/-/ready"),
        timeout_s=60,
    )


def _key(folder: Path) -> Path:
    """The file with the key that Prometheus sends to the service: the first of the variable, or what its owner wrote there."""
    path = folder / "key"
    first, _, _ = os.environ.get("RAYSCALE_SERVE_API_KEYS", "").strip(" ,").partition(",")
    if first or not path.exists():  # without a key, the service is open to all
        with replacing(path, private=True) as file:
            file.write(first.strip().encode())
    return path


def configuration(discovery: Path, serve: str, key: Path, interval: str = "5s") -> str:
    """The text of ``prometheus.yml``; ``discovery`` is the file in which Ray lists its nodes, ``key`` one with a key."""
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {
                    "job_name": "ray",
                    # The folder may come after Prometheus, which would then look again after five minutes only.
                    "file_sd_configs": [{"files": [str(discovery)], "refresh_interval": interval}],
                },
                {
                    "job_name": "rayscale-serve",
                    "static_configs": [{"targets": [serve]}],
                    "authorization": {"credentials_file": str(key)},  # read at every request
                },
            ],
        },
        sort_keys=False,
    )
