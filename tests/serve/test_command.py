"""``rayscale serve`` as a process: what it says, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

KEY = "a-key-of-the-command-under-test"


@pytest.mark.stack
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(checkout: Path, tools: Any, sent: signal.Signals) -> None:
    """Requests in progress are answered, the exit code is 130, one sentence says why, and no process is left."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYSCALE_"))}
    environment |= {"RAYSCALE_SERVE_API_KEYS": KEY, "RAYSCALE_SERVE_DEVICE": "cpu"}
    command = [sys.executable, "-m", "rayscale", "serve", "--port", str(port)]
    process = subprocess.Popen(
        command,
        cwd=checkout,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        started = process.stdout.readline()
        assert "access: keys: 1" in started
        children = psutil.Process(process.pid).children(recursive=True)
        statuses: list[int] = []
        data = tools.encoded(1200, 1200)

        def post() -> None:
            url = f"http://127.0.0.1:{port}/v1/upscale?ensemble=true"
            headers = {"X-API-Key": KEY}
            answer = httpx.post(url, content=data, headers=headers, timeout=120, trust_env=False)
            statuses.append(answer.status_code)

        client = threading.Thread(target=post)
        client.start()
        client.join(1)
        if sent is signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does
        else:
            process.send_signal(sent)
        _, errors = process.communicate(timeout=120)
        client.join(60)
        assert process.returncode == 130
        assert statuses == [200]
        assert errors.count("interrupted: requests in progress are finished first") == 1
        assert "Traceback" not in errors
        assert "*** SIG" not in errors
        assert "stack trace" not in errors.lower()
        _, left = psutil.wait_procs(children, timeout=20)
        assert left == []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_key_variable_without_a_key_starts_nothing(checkout: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYSCALE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "rayscale", "serve"],
        cwd=checkout,
        env=environment | {"RAYSCALE_SERVE_API_KEYS": ""},
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "RAYSCALE_SERVE_API_KEYS is set but holds no key" in " ".join(done.stderr.split())
