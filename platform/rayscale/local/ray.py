"""Ray of the embedded stack: one head on loopback, with dashboard and job server, behind a token.

Bare ``ray job submit -- python jobs/x.py`` runs the job where the head was started: the root of the checkout.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from rayscale.local.processes import Service, answers
from rayscale.local.tokens import token
from rayscale.settings import checkout

_OBJECT_STORE_BYTES = 1 << 30


def _token(home: Path) -> Path:
    """The file with the token that jobs, drivers and the dashboard need."""
    return home / "ray_token"


def temporary_folder(home: Path) -> Path:
    """Where Ray keeps sockets and session logs: short, as the path of a socket may have 107 bytes at most."""
    name = hashlib.sha256(str(home).encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"rayscale-{name}"


def clear_temporary(home: Path) -> None:
    """Delete what an ended Ray left there: sockets, spilled objects, logs of past sessions."""
    shutil.rmtree(temporary_folder(home), ignore_errors=True)


def client_environment(home: Path, ports: dict[str, int]) -> dict[str, str]:
    """What makes ``ray.init()``, ``ray job`` and ``serve`` of a shell use this Ray."""
    return {
        "RAY_ADDRESS": f"127.0.0.1:{ports['ray']}",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['dashboard']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token(home)),
        # The only switch that keeps Ray on 127.0.0.1: else it takes the address of the network card for
        # itself, even when told loopback, and listens on every interface. Drivers need it as well.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAYSCALE_SERVE_PORT": str(ports["serve"]),
    }


def service(home: Path, ports: dict[str, int], num_cpus: int | None) -> Service:
    """How the stack runs Ray; ``ports`` needs ray, dashboard, agent and client. Not for use on several machines."""
    address = f"http://127.0.0.1:{ports['dashboard']}"
    root = checkout()
    scripts = Path(sysconfig.get_path("scripts"))
    head = [
        *("start", "--head", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"),
        *(f"--port={ports['ray']}", f"--temp-dir={temporary_folder(home)}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={ports['dashboard']}"),
        f"--dashboard-agent-listen-port={ports['agent']}",
        f"--ray-client-server-port={ports['client']}",
        # Any free port, instead of a range that a second Ray on the machine would want as well.
        *("--min-worker-port=0", "--max-worker-port=0"),
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        *([f"--num-cpus={num_cpus}"] if num_cpus else []),
    ]
    variables = {
        **client_environment(home, ports),
        # Train's controller takes one report per poll; at its default of 2 s a short run mostly waits.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
        # `ray job stop` kills what has not ended after 3 s, which is short for saving what is done.
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
        # A busy machine may need longer than the default of 30 s until the node is known to its own head.
        "RAY_raylet_start_wait_time_s": "120",
        # The first driver would start a worker for every core, which nothing of ours ever uses: each has its own environment.
        "RAY_prestart_worker_first_driver": "0",
        "PYTHONUNBUFFERED": "1",
        # The proxies of Ray Serve: rayscale.serving.front.ENVIRONMENT.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "rayscale.serving.front.middlewares",
        "RAY_SERVE_PROXY_USE_GRPC": "1",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": "2147483647",
        # `ray job submit -- python ...` means the python of this installation, activated or not.
        "PATH": os.pathsep.join([str(scripts), os.environ.get("PATH", os.defpath)]),
    }
    del variables["RAY_ADDRESS"]  # it names a cluster to join, and this one is to be made
    secret = token(_token(home))
    return Service(
        name="ray",
        address=address,
        command=[sys.executable, str(scripts / "ray"), *head],
        environment=variables,
        cwd=root or home,
        ports=frozenset([ports["ray"], ports["dashboard"]]),
        # The dashboard answers before the node is there, and a node that fails takes it down again.
        ready=lambda: answers(
            f"{address}/api/v0/nodes?limit=1", {"Authorization": f"Bearer {secret}"}, b'"ALIVE"'
        ),
        timeout_s=180,
    )
