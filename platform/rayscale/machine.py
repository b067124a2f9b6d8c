"""What is to be known of the machine that a process runs on: its CPUs, and a name that no other has."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
"""Where Linux has the energy counters of processors; AMD's too."""


def cpu_count(root: Path = Path("/")) -> int:
    """CPUs that this process may use: those it is bound to, and no more than the quota of its control groups.

    A container with a quota of 2 on a machine of 64 cores sees all 64, and 64 threads would spend their time waiting for each other.
    A part of a CPU counts as none, but there is always one. ``root`` holds ``proc`` and ``sys``.
    """
    bound = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    most = len(bound) or os.cpu_count() or 1
    return max(1, int(min([most, *_quotas(root)])))


def be_nice(by: int = 19) -> None:
    """Lower the priority of this thread, and of those that it starts. Elsewhere than on Linux only processes have one."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nicer = os.getpriority(os.PRIO_PROCESS, thread) + by
        os.setpriority(os.PRIO_PROCESS, thread, min(nicer, 19))


def identity() -> str:
    """The boot of this machine, the same in its containers: host names repeat."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # no Linux
        return f"{uuid.getnode():012x}"


def joules(root: Path = POWERCAP) -> float | None:
    """What the energy counters of this machine's processors say (RAPL); None where there are none to read."""
    try:
        files = [
            each / "energy_uj" for each in root.glob("intel-rapl:*") if each.name.count(":") == 1
        ]
        return sum(int(file.read_text()) for file in files) / 1e6 if files else None
    except OSError:
        return None


class Energy:
    """Joules that the processors of this machine have taken since it was made (RAPL), whatever ran there.

    Their counters begin again when they are full, under load within the hour: it has to be read more often than that.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._root, self._spent, self._last = root, 0.0, _counters(root)

    def read(self) -> float | None:
        """None where there are no counters to read, which on most machines only root may."""
        now = _counters(self._root)
        if not now or now.keys() != self._last.keys():
            return None
        for name, (value, most) in now.items():
            before, _ = self._last[name]
            self._spent += (value - before if value >= before else value - before + most) / 1e6
        self._last = now
        return self._spent


def _counters(root: Path) -> dict[str, tuple[int, int]]:
    """Microjoules of each package, and where its counter begins again; the parts of a package are in it."""
    try:
        return {
            each.name: (_number(each / "energy_uj"), _number(each / "max_energy_range_uj"))
            for each in root.glob("intel-rapl:*")
            if each.name.count(":") == 1
        }
    except OSError:
        return {}


def _number(file: Path) -> int:
    return int(file.read_text())


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each control group around this process allows, of version 1 and 2 (cgroups(7))."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
        else:
            continue
        # A container may see its own group as the root of the mount, whatever path it is told.
        inner = Path(path.lstrip("/"))
        for group in {mount, *(mount / part for part in (inner, *inner.parents))}:
            if quota := _quota(group):
                yield quota


def _quota(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no limit reads "max"
        return None
