"""Hosts with Ray, and a store with S3: one lab for all tests that ask for ``lab``, which are marked ``hosts``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from infra.lab import service
from infra.lab.hosts import Lab
from infra.lab.namespaces import lacking

HEAD = "host-1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They share one lab, so they run in one process, and not beside what needs the stack."""
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.hosts)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A store with S3 and a head of one CPU; a test adds others, and pulls them at its end."""
    if reason := lacking():
        pytest.skip(reason)
    pytest.importorskip("swift", reason="the S3 server of the lab needs rayscale[local]")
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.variables |= service.VARIABLES
        lab.start_store("s3")  # first: Ray's processes have its variables from their node
        lab.add(HEAD)
        yield lab


@pytest.fixture
def lab_s3(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The lab, with the variables set that lead this process to its S3."""
    for name, value in lab.variables.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    return lab


def await_that(what: Callable[[], object], log: Path, timeout_s: float = 300) -> None:
    """Until ``what`` is true; an error with the end of ``log`` if it does not come to that."""
    end = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > end:
            said = log.read_text(errors="replace")[-4000:] if log.is_file() else "nothing"
            raise AssertionError(f"not within {timeout_s:g} s; {log.name} ends with\n{said}")
        time.sleep(0.1)
