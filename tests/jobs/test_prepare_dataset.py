"""The preparation job as a user runs it: a process of its own, on the real Ray and S3 of the test run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from rayscale.data import Dataset, Manifest, PrepareConfig, ShardCache, prepare
from rayscale.local import Addresses
from rayscale.storage import connect

SMALL = ["--size", "48", "--step", "36", "--minimum", "24", "--images-per-shard", "2"]


def run(checkout: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, checkout / "jobs" / "prepare_dataset.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=240,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(5):
        pixels = random.integers(0, 256, (60, 72, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"image {number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    return folder


def test_prepares_on_ray_lists_failures_and_resumes(
    checkout: Path, folder: Path, tmp_path: Path, stack: Addresses, s3: Any
) -> None:
    source, target = f"{s3.uri}/in", f"{s3.uri}/set"
    for path in folder.iterdir():
        connect(source).write_file(path.name, path)
    first = run(checkout, source, target, *SMALL, cwd=tmp_path)
    assert first.returncode == 3, first.stderr
    assert f"ray: {stack.ray}" in first.stdout
    assert "shards: 0/3" in first.stdout
    assert "shards: 3/3" in first.stdout
    assert "5 used, 1 failed" in first.stdout
    assert "broken.png: InputError" in first.stdout
    manifest = Manifest.load(target)
    assert manifest.digest in first.stdout
    config = PrepareConfig(size=48, step=36, minimum=24, images_per_shard=2)
    assert manifest.digest == prepare(folder, tmp_path / "here", config).digest
    assert len(Dataset(target, 4, ShardCache(tmp_path)).pairs([0, 5, 9])) == 3
    # Nothing is left to do: Ray is not asked.
    again = run(checkout, source, target, *SMALL, cwd=tmp_path)
    assert again.returncode == 3
    assert "ray:" not in again.stdout
    (folder / "broken.png").unlink()
    prepare(folder, tmp_path / "here", config)
    assert run(checkout, folder, tmp_path / "here", *SMALL, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--size", "100"], 2, "take 96 or 108"),
        (["--size", "many"], 2, "invalid int"),
        (["--exclude", "*"], 1, "has no image among its 6 objects"),
        (["--exclude", "image*"], 1, "none of the 1 images"),
    ],
)
def test_exit_codes_tell_usage_from_nothing(
    checkout: Path, folder: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = run(checkout, folder, tmp_path / "set", *options, cwd=tmp_path)
    assert result.returncode == code, result.stdout + result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
