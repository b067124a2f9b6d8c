"""The job as a program: exit codes, output, a driver killed in the middle."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import psutil
import pytest
import torch
from tests.plugins.signals import own_lines, stop_job

from rayscale import registry, storage
from rayscale.batch import Progress
from rayscale.batch.run import LEASE
from rayscale.cli import run
from rayscale.cli.batch import progress_line, show_progress
from rayscale.local import Addresses, processes
from rayscale.models.systems import create_model
from rayscale.models.weights import save_model
from rayscale.storage.lease import Lease

COUNT = 24

HEEDFUL = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script as a shell with job control does: what runs in the background of others ignores Ctrl-C."""


def main(arguments: list[str]) -> int:
    """The command of the script, in this process."""
    return run("batch", *arguments)


def png(seed: int, size: int = 8) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def outputs_of(target: storage.Store) -> list[str]:
    return [entry.key for entry in target.list() if not entry.key.startswith("_rayscale/")]


def test_wrong_usage_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    arguments = [str(tmp_path), str(tmp_path), "--model", "bicubic", "--scale", "2"]
    assert main(arguments) == 2
    assert "overlap" in capsys.readouterr().err
    assert main(["only-one"]) == 2


def test_nothing_to_work_with_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), "--model", "bicubic", "--scale", "2"]
    assert main([*arguments, "--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"] == "not_found"
    assert "no input" in shown.err


def test_folders_partial_failed_and_complete(
    stack: Addresses, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"bad")
    arguments = [str(folder), str(tmp_path / "out"), "--model", "bicubic", "--scale", "3"]
    assert main(arguments) == 1  # nothing could be done
    (folder / "good.png").write_bytes(png(1))
    capsys.readouterr()
    assert main(arguments) == 3
    shown = capsys.readouterr().out
    assert "1 done, 0 skipped (done before), 1 failed" in shown
    assert "bad.png" in shown
    assert "unsupported_media" in shown
    (folder / "bad.png").unlink()
    assert main([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["done"], summary["skipped"], summary["failed"]) == (0, 1, [])
    assert PIL.Image.open(tmp_path / "out/good.png").size == (24, 24)


@pytest.mark.slow
def test_a_dry_run_tells_and_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / f"in/{number}.png").write_bytes(png(number, 100))
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), "--model", "bicubic", "--scale", "2"]
    arguments += ["--dry-run", "--device", "cpu"]
    assert main([*arguments, "--limit", "3", "--actors", "2"]) == 0
    shown = capsys.readouterr().out
    assert "images      3 of 4 to do (1 left by --limit)" in shown
    assert "megapixels  0.03, from 3 headers" in shown
    assert "with 2 workers" in shown
    assert main([*arguments, "--json"]) == 0
    forecast = json.loads(capsys.readouterr().out)
    assert (forecast["todo"], forecast["megapixels"], forecast["total"]) == (4, 0.04, 4)
    assert not (tmp_path / "out").exists()


def test_progress_in_images_and_megapixels() -> None:
    first = Progress(2, 0, 10, 100, 1000, 0.5, 3.0)
    now = Progress(6, 1, 10, 400, 1000, 2.5, 7.0)
    assert progress_line(first, first) == "2/10 images, 0.5 MP"
    assert progress_line(first, now) == (
        "6/10 images, 2.5 MP, 1 failed; 1.00 images/s, 0.50 MP/s, about 8 s left"
    )


def test_progress_during_a_scene(capsys: pytest.CaptureFixture[str]) -> None:
    """By its windows; and a line now and then, not for each of them."""
    first = Progress(0, 0, 1, 100, 1000, 10.0, 5.0, 1, 10)
    now = Progress(0, 0, 1, 300, 1000, 30.0, 9.0, 3, 10)
    assert progress_line(first, now) == (
        "0/1 images, 3/10 windows of a scene, 30.0 MP; 5.00 MP/s, about 14 s left"
    )
    show = show_progress()
    for _ in range(4):
        show(now)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_second_driver_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(png(1))
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), "--model", "bicubic", "--scale", "2"]
    with Lease(storage.connect(tmp_path / "out"), LEASE):
        assert main(arguments) == 1
    assert "another process" in capsys.readouterr().err


@pytest.fixture(scope="module")
def slow(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that leaves time to kill its driver."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "w"
    save_model(create_model("edsr-baseline", scale=2, filters=32, blocks=16), path)
    return registry.publish(path, "job-slow").name


def workers(home: Path) -> list[psutil.Process]:
    """Those that upscale on the stack of ``home``."""
    found = processes.find(home, ["ray"])
    return [each for each in found if "UpscaleActor" in " ".join(each.cmdline())]


def check_order(said: str, target: storage.Store, home: Path, started: bool) -> None:
    """What is done is in the manifest, the lease is free, no worker is left, and the user knows how to go on."""
    last = own_lines(said.strip().splitlines())[-1]
    assert last == "interrupted: what is done is kept; run the same command again to resume"
    for trace in ("Traceback", "*** SIG", "Stack trace"):
        assert trace not in said
    rows = [json.loads(line) for line in target.read("_rayscale/manifest.jsonl").splitlines()]
    assert (1 <= len(rows) < COUNT) if started else rows == []
    with Lease(target, LEASE):
        pass
    end = time.monotonic() + 60
    while workers(home) and time.monotonic() < end:
        time.sleep(0.2)
    assert workers(home) == []


@pytest.mark.parametrize(
    ("number", "code", "outputs"), [(signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 8)]
)
def test_a_signal_ends_the_job_in_order(
    slow: str,
    s3: Any,
    stack_home: Path,
    checkout: Path,
    number: signal.Signals,
    code: int,
    outputs: int,
) -> None:
    """While the workers start, and among the images: so many that a block of them is through, as rows come by blocks."""
    source, target = storage.connect(f"{s3.uri}/in"), storage.connect(f"{s3.uri}/out")
    for i in range(COUNT):
        source.write(f"{i}.png", png(i, 64))
    script = str(checkout / "jobs/upscale_bucket.py")
    driver = subprocess.Popen(
        [sys.executable, "-c", HEEDFUL, script, source.uri, target.uri, "--model", slow, "--ensemble"],
        stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    assert driver.stderr is not None
    said = ""
    while "starting the workers" not in said:
        line = driver.stderr.readline()
        assert line, said
        said += line
    end = time.monotonic() + 180
    while len(outputs_of(target)) < outputs and driver.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    driver.send_signal(number)
    said += driver.communicate(timeout=60)[1]
    assert driver.returncode == code, said
    check_order(said, target, stack_home, started=outputs > 0)


def test_ray_job_stop_ends_the_job_in_order(
    slow: str, s3: Any, stack: Addresses, stack_home: Path
) -> None:
    from ray.job_submission import JobSubmissionClient

    source, target = storage.connect(f"{s3.uri}/in"), storage.connect(f"{s3.uri}/out")
    for i in range(COUNT):
        source.write(f"{i}.png", png(i, 64))
    client = JobSubmissionClient(stack.dashboard)  # `ray job` is a command line around it
    places = f"{source.uri} {target.uri}"
    job = client.submit_job(
        entrypoint=f"python jobs/upscale_bucket.py {places} --model {slow} --ensemble"
    )
    end = time.monotonic() + 180
    while len(outputs_of(target)) < 8 and time.monotonic() < end:
        time.sleep(0.1)
    said = stop_job(client, job, 180)
    check_order(said, target, stack_home, started=True)


def test_a_killed_driver_loses_work_but_never_truth(
    slow: str, s3: object, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = str(getattr(s3, "uri"))  # noqa: B009
    source, target = storage.connect(f"{uri}/in"), storage.connect(f"{uri}/out")
    for i in range(COUNT):
        source.write(f"{i}.png", png(i, 64))
    arguments = [
        source.uri,
        target.uri,
        "--model",
        slow,
        "--ensemble",
        "--precision",
        "float32",
    ]
    command = [sys.executable, str(checkout / "jobs/upscale_bucket.py"), *arguments, "--json"]

    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )
    try:
        end = time.monotonic() + 180
        while len(outputs_of(target)) < 2 and driver.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        assert driver.poll() is None, driver.communicate()[1].decode()
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    made = outputs_of(target)
    assert 2 <= len(made) < COUNT
    for key in made:  # what is visible is whole
        PIL.Image.open(io.BytesIO(target.read(key))).load()

    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)  # nothing but the JSON on standard output
    assert summary["done"] + summary["skipped"] == COUNT
    outputs = outputs_of(target)
    assert sorted(outputs) == sorted(f"{i}.png" for i in range(COUNT))
    for key in outputs:
        assert PIL.Image.open(io.BytesIO(target.read(key))).size == (128, 128)
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == COUNT
