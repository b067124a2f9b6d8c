"""The manual's way to back up a local stack and to restore it elsewhere, with its registry and the state of a batch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayscale import local, registry
from rayscale.batch.manifest import Manifest, Row
from rayscale.models.builtin import BUNDLED
from rayscale.settings import get_settings
from rayscale.storage import connect

SERVICES = ("s3", "mlflow")
WEIGHTS = BUNDLED / "aplus-x2.safetensors"

pytestmark = [pytest.mark.slow, pytest.mark.stack]


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Where a stack was, and where it will be."""
    pytest.importorskip("swift", reason="the S3 server needs rayscale[local]")
    monkeypatch.chdir(tmp_path)
    before, after = tmp_path / "before", tmp_path / "restored"
    yield before, after
    for home in (before, after):
        local.down(home)
    get_settings.cache_clear()


def start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local.up(home, SERVICES, fixed_ports=False)
    for name, value in local.environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAYSCALE_HOME", str(home))
    monkeypatch.setenv("RAYSCALE_CACHE_DIR", str(home.with_name(f"{home.name}-cache")))
    get_settings.cache_clear()


def test_a_stack_is_backed_up_and_restored_elsewhere(
    homes: tuple[Path, Path], checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = homes
    page = (checkout / "docs/operations.md").read_text()
    (commands,) = (
        block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "tar " in block
    )
    back_up, restore = (
        "\n".join(line for line in part.splitlines() if "rayscale" not in line.split("tar")[0])
        for part in commands.split("\n\n")
    )
    start(before, monkeypatch)
    published = registry.publish(WEIGHTS, "roofs", alias="production")
    rows = Manifest(connect("s3://rayscale/out"), 1)
    rows.append([Row("a.png", "etag", 1, "recipe", "model", "digest")])
    rows.flush()
    local.down(before)
    subprocess.run(["sh", "-euc", back_up], check=True, env=dict(os.environ))
    shutil.rmtree(before)
    subprocess.run(["sh", "-euc", restore], check=True)
    assert (after.stat().st_mode & 0o777) == 0o700
    start(after, monkeypatch)
    found = registry.resolve("roofs@production")
    assert (found.ref, found.digest) == (published.ref, published.digest)
    assert registry.fetch(found).read_bytes() == WEIGHTS.read_bytes()
    assert set(Manifest(connect("s3://rayscale/out"), 2).load().rows) == {"a.png"}
