"""Where no hosts can be made, the reason is told; that they can be is shown by ``tests/hosts``."""

from __future__ import annotations

from pathlib import Path

import pytest
from infra.lab.namespaces import lacking


def test_a_machine_without_its_programs_has_no_hosts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "'unshare'" in lacking()


def test_a_machine_that_permits_no_namespaces_has_no_hosts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused = tmp_path / "unshare"
    refused.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2; exit 1\n")
    refused.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "Operation not permitted" in lacking()
