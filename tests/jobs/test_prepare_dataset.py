"""The preparation job as a user runs it: a process of its own, on the real Ray and S3 of the test run."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from rayscale.cli.prepare import on_ray
from rayscale.data import Dataset, Manifest, PrepareConfig, ShardCache, prepare
from rayscale.local import Addresses
from rayscale.resampling import degrade
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
    # What is too small is told as well, and that sub-images of 48 pixels serve no patch of 48 at x2.
    PIL.Image.new("RGB", (20, 40)).save(folder / "small.png")
    prepare(folder, tmp_path / "here", config)
    small = run(checkout, folder, tmp_path / "here", *SMALL, cwd=tmp_path)
    assert small.returncode == 3, small.stderr
    assert "5 used, 0 failed, 1 without a usable sub-image" in small.stdout
    assert "small.png: Skipped: 20x40 pixels" in small.stdout
    assert "20 of 20 sub-images are smaller than 96 pixels: training at x2" in small.stdout


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize(("concurrency", "most"), [(None, [2, 12]), (3, [3, 3])])
def test_shards_at_a_time_follow_the_cluster(
    monkeypatch: pytest.MonkeyPatch, concurrency: int | None, most: list[int]
) -> None:
    """Ray tells of more CPUs after the tenth shard than before."""
    import ray

    done: list[int] = []
    running: list[list[int]] = [[], []]
    wait = ray.wait

    def watched(tasks: list[Any]) -> Any:
        running[len(done) >= 10].append(len(tasks))
        return wait(tasks)

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1 if len(done) < 10 else 6})
    monkeypatch.setattr(ray, "wait", watched)
    tasks: Any = range(40)
    for number in on_ray(concurrency)(lambda task: task, tasks):
        done.append(number)  # type: ignore[arg-type]
    assert sorted(done) == list(range(40))
    assert [max(counts) for counts in running] == most


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("stack")
def test_a_signal_keeps_the_finished_shards(
    checkout: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for index in range(40):
        pixels = random.integers(0, 256, (60, 72, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    command = [sys.executable, str(checkout / "jobs" / "prepare_dataset.py"), "images", "set"]
    options = [*SMALL[:-1], "1", "--concurrency", "1"]
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a child of what ignores it would, too
    process = subprocess.Popen(
        [*command, *options],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    said = list(itertools.takewhile(lambda line: "shards: 2/40" not in line, process.stdout))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, [said, err]
    kept = "interrupted: finished shards are kept; run the same command again to resume\n"
    assert err.endswith(kept)
    assert "Traceback" not in err
    again = run(checkout, "images", "set", *options[:-2], cwd=tmp_path)
    assert again.returncode == 0
    first = re.search(r"shards: (\d+)/40", again.stdout)
    assert first
    assert int(first[1]) >= 2
    assert "40 used, 0 failed" in again.stdout


def test_pairs_by_the_command_line(checkout: Path, folder: Path, tmp_path: Path) -> None:
    """HR and LR in places of their own; finished before, so that no Ray is needed."""
    (folder / "broken.png").unlink()
    for path in folder.iterdir():
        lr = tmp_path / "lr" / "X2" / f"{path.stem}x2.png"
        lr.parent.mkdir(parents=True, exist_ok=True)
        pixels = degrade(np.array(PIL.Image.open(path)), 2)
        PIL.Image.fromarray(pixels if path.stem[-1] != "4" else pixels[::-1]).save(lr)
    options = [*SMALL, "--lr", tmp_path / "lr"]
    config = PrepareConfig(
        size=48, step=36, minimum=24, images_per_shard=2, lr=str(tmp_path / "lr")
    )
    prepare(folder, tmp_path / "set", config)
    result = run(checkout, folder, tmp_path / "set", *options, cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert "4 used, 1 failed" in result.stdout
    assert "LR images   those of the pairs" in result.stdout
    assert "scales x2\n" in result.stdout
    assert "image 4.png: InputError: X2/image 4x2.png: the LR image does not show" in result.stdout
    trusting = config.model_copy(update={"registration": "trust"})
    prepare(folder, tmp_path / "set", trusting)
    options += ["--registration", "trust"]
    assert run(checkout, folder, tmp_path / "set", *options, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--size", "100"], 2, "take 96 or 108"),
        (["--size", "many"], 2, "size must be a whole number, not 'many'"),
        (["--exclude", "*"], 1, "has no image (6 other objects)"),
        (["--exclude", "image*"], 1, "no image of "),
    ],
)
def test_exit_codes_tell_usage_from_nothing(
    checkout: Path, folder: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = run(checkout, folder, tmp_path / "set", *options, cwd=tmp_path)
    assert result.returncode == code, result.stdout + result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
