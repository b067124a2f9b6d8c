"""CPUs within the quotas of control groups, on trees of files as Linux shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import rayscale
from rayscale import machine
from rayscale.batch import forecast
from rayscale.cli.images import open_named

V2, V1 = "0::{}\n", "12:memory:{0}\n4:cpu,cpuacct:{0}\n0::/\n"


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("cgroup", "files", "cpus"),
    [
        ("", {}, 8),
        (V2.format("/"), {"cpu.max": "200000 100000\n"}, 2),
        (V2.format("/"), {"cpu.max": "max 100000\n"}, 8),
        (V2.format("/"), {"cpu.max": "50000 100000\n"}, 1),
        (V2.format("/"), {"cpu.max": "1600000 100000\n"}, 8),
        # The group of a service, and one around it that allows less.
        (V2.format("/a/b"), {"a/b/cpu.max": "500000 100000", "a/cpu.max": "300000 100000"}, 3),
        # A container that sees itself as the root, by a path of its host.
        (V2.format("/kubepods/pod1/c"), {"cpu.max": "250000 100000"}, 2),
        (V1.format("/"), {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 8),
        (V1.format("/docker/x"), {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 3),
        (V1.format("/a"), {"cpu,cpuacct/a/cpu.cfs_quota_us": "40000", "cpu,cpuacct/a/cpu.cfs_period_us": "20000"}, 2),
    ],
)  # fmt: skip
def test_quotas_bound_the_cpus(
    tmp_path: Path, cgroup: str, files: dict[str, str], cpus: int
) -> None:
    if cgroup:
        _write(tmp_path, {"proc/self/cgroup": cgroup})
    _write(tmp_path / "sys/fs/cgroup", files)
    assert machine.cpu_count(tmp_path) == cpus


def test_the_cpus_of_this_machine() -> None:
    assert 1 <= machine.cpu_count() <= 8


def test_nothing_counts_cpus_by_itself() -> None:
    """Whoever asks the system sees the cores of the host, not the quota."""
    asks = re.compile(r"\b(os|psutil|multiprocessing|joblib)\.cpu_count\b|sched_getaffinity")
    package = Path(rayscale.__file__).parent
    found = {path.name for path in package.rglob("*.py") if asks.search(path.read_text())}
    assert found == {"machine.py"}


def test_who_asks_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_count", lambda: 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        open_named("bicubic", None, 2)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert forecast._workers("cpu") == 1
    monkeypatch.setattr(machine, "cpu_count", lambda: 3)
    assert forecast._workers("cpu") == 3


def test_the_identity_stays() -> None:
    assert machine.identity() == machine.identity() != ""
