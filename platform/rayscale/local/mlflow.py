"""MLflow of the embedded stack: the tracking server and registry, SQLite inside, artifacts in the S3 server.

It listens on loopback only and asks for a password (``login``). Clients send artifacts through it and need no S3 keys.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rayscale.local import login
from rayscale.local.processes import Service, answers
from rayscale.local.tokens import token

BUCKET = "mlflow"


def password(home: Path) -> Path:
    """The file with the password; made at first use."""
    path = home / "mlflow" / login.PASSWORD
    path.parent.mkdir(parents=True, exist_ok=True)
    token(path)
    return path


def client_environment(home: Path, port: int, host: str = "127.0.0.1") -> dict[str, str]:
    """What makes MLflow's clients use this server."""
    return {
        "MLFLOW_TRACKING_URI": f"http://{host}:{port}",
        "MLFLOW_TRACKING_USERNAME": login.USER,
        "MLFLOW_TRACKING_PASSWORD": password(home).read_text(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def service(home: Path, port: int) -> Service:
    """How the stack runs MLflow; the variables of the S3 server come from the environment."""
    address = f"http://127.0.0.1:{port}"
    return Service(
        name="mlflow",
        address=address,
        command=[
            *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port)),
            *("--no-access-log", "--factory", "rayscale.local.login:create"),
        ],
        environment={
            login.ARTIFACTS: f"s3://{BUCKET}/artifacts",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job runners cost seconds and memory
        },
        cwd=password(home).parent,
        ports=frozenset([port]),
        ready=lambda: answers(f"{address}/health"),
        timeout_s=180,
    )
