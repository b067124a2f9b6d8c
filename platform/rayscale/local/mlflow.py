"""MLflow of the embedded stack: the tracking server and registry, SQLite inside, artifacts in the S3 server.

It knows no users and listens on loopback only. Clients send artifacts through it and need no S3 keys.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rayscale.local.processes import Service, answers

BUCKET = "mlflow"


def service(home: Path, port: int) -> Service:
    """How the stack runs MLflow; the variables of the S3 server come from the environment."""
    folder = home / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    address = f"http://127.0.0.1:{port}"
    return Service(
        name="mlflow",
        address=address,
        command=[
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            # Relative to cwd: a path with % or ? would not survive in a database URI.
            *("--backend-store-uri", "sqlite:///mlflow.db", "--workers", "1"),
            *("--artifacts-destination", f"s3://{BUCKET}/artifacts", "--serve-artifacts"),
        ],
        environment={
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job runners cost seconds and memory
        },
        cwd=folder,
        ready=lambda: answers(f"{address}/health"),
        timeout_s=180,
    )
