"""The whole product path in small, by the commands a user types, on the real S3, MLflow and Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from rayscale import correlation, registry
from rayscale.imaging import Image, read_image, write_image
from rayscale.inference import Upscaler
from rayscale.operations import logs
from rayscale.options import Options
from rayscale.resampling import degrade
from rayscale.storage import connect

STEPS, EVERY = 40, 20
NAME = "whole-path"
ID = "an-id-of-the-whole-path"


def run(checkout: Path, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=checkout, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def _photograph(seed: int) -> np.ndarray:
    """Smooth ground, sharp bars and some noise, 96 pixels a side."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    ground = np.stack(
        [128 + 60 * np.sin((x * a + y * b) / 17) for a, b in rng.uniform(-1, 1, (3, 2))], -1
    )
    bars = 50 * (((x * rng.uniform(0.5, 1) + y) // 7) % 2)[..., None]
    return np.clip(ground + bars + rng.normal(0, 3, (96, 96, 3)), 0, 255).astype(np.uint8)


@pytest.mark.timeout(900)
def test_from_a_bucket_of_images_to_a_served_model(checkout, stack, s3, monkeypatch):
    """Each command exits with 0; one id leads from the run in MLflow to the rows of the batch."""
    monkeypatch.setenv(correlation.VARIABLE, ID)
    store = connect(s3.uri)
    for seed in range(6):
        store.write(f"images/{seed}.png", write_image(Image(_photograph(seed))))
    hr = _photograph(99)
    store.write("benchmark/HR/a_HR.png", write_image(Image(hr)))
    store.write("benchmark/LR/a_LR.png", write_image(Image(degrade(hr, 2))))

    run(checkout, "jobs/prepare_dataset.py", f"{s3.uri}/images", f"{s3.uri}/dataset", "--scales", 2)

    settings = {
        "data.uri": f"{s3.uri}/dataset", "run.uri": f"{s3.uri}/runs", "validation.uri": f"{s3.uri}/benchmark",
        "model.blocks": 1, "model.filters": 8, "data.patch": 16, "data.batch": 4, "optimizer.steps": STEPS,
        "checkpoint.every": EVERY, "validation.every": STEPS, "logging.every": EVERY, "workers.threads": 1,
    }  # fmt: skip
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = ("jobs/train_edsr.py", "--workers", 2, "--register", NAME, "--alias", "production")
    run(checkout, *command, *overrides)
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

    run(
        checkout,
        "jobs/upscale_bucket.py",
        f"{s3.uri}/benchmark/LR",
        f"{s3.uri}/out",
        "--model",
        f"{NAME}@production",
    )
    np.testing.assert_array_equal(read_image(store.read("out/a_LR.png")).pixels, expected)
    assert version.run_id in {json.loads(line.text)["run"] for line in logs.find_runs(ID)}
    assert [json.loads(row.text)["key"] for row in logs.find_rows(f"{s3.uri}/out", ID)] == [
        "a_LR.png"
    ]

    try:
        run(checkout, "-m", "rayscale", "serve", "--model", NAME)
        answer = httpx.post(
            f"{stack.serve}/v1/upscale", params={"model": f"{NAME}@production", "scale": 2},
            content=write_image(lr), headers={"Content-Type": "image/png"}, timeout=120,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-rayscale-weights-sha256"] == version.digest
        np.testing.assert_array_equal(read_image(answer.content).pixels, expected)
    finally:
        run(
            checkout,
            "-c",
            "from rayscale import cluster; cluster.connect(); from ray import serve; serve.shutdown()",
        )
