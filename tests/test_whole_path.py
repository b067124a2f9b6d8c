"""The whole product path in small, by the commands a user types, on the real S3, MLflow and Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from rayscale import registry
from rayscale.imaging import Image, read_image, write_image
from rayscale.inference import Upscaler
from rayscale.options import Options
from rayscale.resampling import degrade
from rayscale.storage import Store, connect

STEPS, EVERY = 400, 20  # long enough to be killed in between
NAME = "whole-path"


def _command(checkout: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=checkout, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _run(checkout: Path, *arguments: object, code: int = 0) -> str:
    process = _command(checkout, *arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def _photograph(seed: int) -> np.ndarray:
    """Smooth ground, sharp bars and some noise, 96 pixels a side."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    ground = np.stack(
        [128 + 60 * np.sin((x * a + y * b) / 17) for a, b in rng.uniform(-1, 1, (3, 2))], -1
    )
    bars = 50 * (((x * rng.uniform(0.5, 1) + y) // 7) % 2)[..., None]
    return np.clip(ground + bars + rng.normal(0, 3, (96, 96, 3)), 0, 255).astype(np.uint8)


def _committed(store: Store) -> int:
    return sum(entry.key.endswith("COMMITTED") for entry in store.list("runs/"))


def _kill_a_training_worker(home: Path) -> int:
    for process in psutil.process_iter(["cmdline"]):
        if process.info["cmdline"] and process.info["cmdline"][0].startswith("ray::RayTrainWorker"):
            try:
                ours = process.environ().get("RAYSCALE_STACK") == str(home)
            except psutil.Error:
                continue
            if ours:
                os.kill(process.pid, signal.SIGKILL)
                return process.pid
    raise AssertionError("no training worker is running")


@pytest.mark.timeout(900)
def test_from_a_bucket_of_images_to_a_served_model(checkout, stack, stack_home, s3):
    store = connect(s3.uri)
    for seed in range(6):
        store.write(f"images/{seed}.png", write_image(Image(_photograph(seed))))
    hr = _photograph(99)
    store.write("benchmark/HR/a_HR.png", write_image(Image(hr)))
    store.write("benchmark/LR/a_LR.png", write_image(Image(degrade(hr, 2))))

    _run(
        checkout, "jobs/prepare_dataset.py", f"{s3.uri}/images", f"{s3.uri}/dataset", "--scales", 2
    )

    settings = {
        "data.uri": f"{s3.uri}/dataset", "run.uri": f"{s3.uri}/runs", "validation.uri": f"{s3.uri}/benchmark",
        "model.blocks": 1, "model.filters": 8, "data.patch": 16, "data.batch": 4, "optimizer.steps": STEPS,
        "checkpoint.every": EVERY, "validation.every": STEPS, "logging.every": EVERY, "workers.threads": 1,
    }  # fmt: skip
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    training = _command(
        checkout,
        "jobs/train_edsr.py",
        "--workers",
        2,
        "--register",
        NAME,
        "--alias",
        "production",
        *overrides,
    )
    deadline = time.monotonic() + 200
    while not _committed(store):
        assert training.poll() is None, training.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint was committed"
        time.sleep(0.05)
    _kill_a_training_worker(stack_home)
    output, _ = training.communicate(timeout=400)
    assert training.returncode == 0, output
    assert "a worker was lost" in output
    (result_key,) = (
        entry.key for entry in store.list("runs/") if entry.key.endswith("result.json")
    )
    result = json.loads(store.read(result_key))
    assert result["complete"]
    assert result["steps"] == STEPS

    version = registry.resolve(f"{NAME}@production")
    assert version.digest == result["sha256"]
    assert version.scores["validation"]["protocol"] == "edsr-paper-y"
    lr = read_image(store.read("benchmark/LR/a_LR.png"))
    expected = Upscaler(registry.load(version), Options(scale=2)).upscale(lr).pixels

    _run(
        checkout,
        "jobs/upscale_bucket.py",
        f"{s3.uri}/benchmark/LR",
        f"{s3.uri}/out",
        "--model",
        f"{NAME}@production",
    )
    np.testing.assert_array_equal(read_image(store.read("out/a_LR.png")).pixels, expected)

    try:
        _run(checkout, "-m", "rayscale", "serve", "--model", NAME)
        answer = httpx.post(
            f"{stack.serve}/v1/upscale", params={"model": f"{NAME}@production", "scale": 2},
            content=write_image(lr), headers={"Content-Type": "image/png"}, timeout=120,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-rayscale-weights-sha256"] == version.digest
        np.testing.assert_array_equal(read_image(answer.content).pixels, expected)
    finally:
        _run(
            checkout,
            "-c",
            "from rayscale import cluster; cluster.connect(); from ray import serve; serve.shutdown()",
        )
