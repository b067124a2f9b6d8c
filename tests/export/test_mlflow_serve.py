"""``mlflow models serve`` of an exported folder, where nothing is installed but what the folder's requirements name."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import PIL.Image
import pytest
import torch

from rayscale.cli import run
from rayscale.models.builtin import open_builtin

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        not os.environ.get("RAYSCALE_TEST_INSTALLS"),
        reason="installs torch, Ray and MLflow anew, with a network, in minutes; set RAYSCALE_TEST_INSTALLS=1",
    ),
]


def pip(python: Path | str, *words: str | Path) -> None:
    subprocess.run([python, "-m", "pip", "-q", *words], check=True)


def test_a_clean_environment_serves_what_the_library_computes(
    checkout: Path, tmp_path: Path
) -> None:
    pip(sys.executable, "wheel", checkout, "--no-deps", "--no-build-isolation", "-w", tmp_path)
    assert run("export", "edsr-baseline-x2", str(tmp_path / "edsr"), "--to", "mlflow") == 0
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "clean"], check=True)
    programs = tmp_path / "clean" / "bin"
    (tmp_path / "constraints.txt").write_text(f"torch=={torch.__version__.partition('+')[0]}\n")
    needs = tmp_path / "edsr" / "requirements.txt"
    pip(programs / "python", "install", "--find-links", tmp_path, "-c", tmp_path / "constraints.txt", "-r", needs)  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    hidden = ("PYTHON", "VIRTUAL_ENV", "MLFLOW_", "RAY", "AWS_")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(hidden)}
    server = subprocess.Popen(
        [programs / "mlflow", "models", "serve", "--model-uri", tmp_path / "edsr", "--env-manager", "local",
         "--port", str(port)],
        cwd=tmp_path, env=environment | {"PATH": f"{programs}:/usr/bin:/bin"}, start_new_session=True,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        wait(server, f"{address}/ping")
        pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
        picture = PIL.Image.fromarray(pixels).resize((64, 48), PIL.Image.Resampling.BICUBIC)
        picture.save(tmp_path / "photo.png")
        x = np.asarray(picture, np.float32).transpose(2, 0, 1)[None]
        answer = httpx.post(
            f"{address}/invocations",
            content=json.dumps({"inputs": x.tolist()}),
            headers={"Content-Type": "application/json"},
            timeout=300, trust_env=False,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        y = np.asarray(answer.json()["predictions"], np.float32)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
    with torch.inference_mode():
        network = open_builtin("edsr-baseline-x2").network
        np.testing.assert_allclose(y, network(torch.from_numpy(x.copy()), 2).numpy(), atol=1e-2)
    options = ("--model", "edsr-baseline-x2", "--precision", "float32")
    assert run("upscale", str(tmp_path / "photo.png"), str(tmp_path / "big.png"), *options) == 0
    served = np.clip(np.rint(y[0].transpose(1, 2, 0)), 0, 255)
    ours = np.asarray(PIL.Image.open(tmp_path / "big.png"), np.float32)
    # Which keeps local means too: what the network shifts by a level or two.
    assert np.abs(served - ours).max() <= 4
    assert np.abs(served - ours).mean() < 1


def wait(server: subprocess.Popen[bytes], place: str) -> None:
    for _ in range(600):
        assert server.poll() is None, "it ended"
        try:
            if httpx.get(place, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(1)
    raise AssertionError("it never answered")
