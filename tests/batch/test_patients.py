"""What a batch says of patients: nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.plugins import patients

from rayscale import storage
from rayscale.local import Addresses
from rayscale.local.ray import temporary_folder


def test_no_patient_is_named_by_a_batch_its_failures_or_its_logs(
    stack: Addresses, stack_home: Path, s3: Any, checkout: Path, tmp_path: Path
) -> None:
    """Streams of the driver, manifest and lists of the target, all logs of Ray and the stack, and what MLflow keeps."""
    pytest.importorskip("pydicom", reason="needs the extra medical")
    source, target = storage.connect(f"{s3.uri}/in"), storage.connect(f"{s3.uri}/out")
    files = patients.make_files()
    for key, data in files.items():
        source.write(key, data)
    command = [sys.executable, str(checkout / "jobs/upscale_bucket.py"), source.uri, target.uri]
    done = subprocess.run(
        [*command, "--model", "bicubic", "--scale", "2", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout)
    assert told["done"] >= 1
    assert len(told["failed"]) >= 5
    assert told["done"] + len(told["failed"]) == len(files)

    state = tmp_path / "state"
    for entry in target.list("_rayscale/"):
        target.fetch(entry.key, state / entry.key.replace("/", "-"))
    assert len(list(state.iterdir())) >= 4
    (state / "streams").write_text(done.stdout + done.stderr)
    (state / "table").write_text(_table(state / "_rayscale-manifest.parquet"))
    logs = list(temporary_folder(stack_home).glob("session_2*/logs"))
    assert any(list(folder.glob("worker-*")) for folder in logs)
    places = [state, *logs, stack_home / "logs", stack_home / "mlflow"]
    assert list(patients.find_patient(places)) == []

    # The search finds what is there: the sources have it, and the output kept it.
    kept = tmp_path / "kept"
    target.fetch("sound.dcm", kept / "sound.dcm")
    assert len(list(patients.find_patient([kept]))) >= 1


def _table(path: Path) -> str:
    """The rows of a Parquet file, which is compressed."""
    import pyarrow.parquet

    return str(pyarrow.parquet.read_table(path).to_pylist())
