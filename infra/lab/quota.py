"""Cores by quota: hosts that get the same share of a core each, whatever else the machine does; for measurements.

A control group per host (cgroups(7), version 1 or 2; needs root) with a quota of CPU time, and a weight so high that others of
the machine do not take it away. More hosts than cores can then be compared, as long as all quotas fit the cores.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Self

_ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 20_000  # short, so that a pause is no longer than this
_END_S = 10.0
_REST = "rest"


class Quotas:
    """Groups by name of a host, and one for all else that this process starts; use it in a ``with`` statement, around the lab."""

    def __init__(self, name: str, cores: float) -> None:
        self._old = (_ROOT / "cpu").is_dir()
        self._top = _ROOT / "cpu" if self._old else _ROOT
        self._home = self._top / name
        self._cores = cores

    def __enter__(self) -> Self:
        if not self._old:
            (self._top / "cgroup.subtree_control").write_text("+cpu")
        self._home.mkdir()
        if self._old:
            (self._home / "cpu.shares").write_text("262144")
        else:
            (self._home / "cgroup.subtree_control").write_text("+cpu")
            (self._home / "cpu.weight").write_text("10000")
        rest = self._home / _REST
        rest.mkdir()
        (rest / "cgroup.procs").write_text("0")
        return self

    def __exit__(self, *_: object) -> None:
        (self._top / "cgroup.procs").write_text("0")
        end = time.monotonic() + _END_S  # the kernel lets its processes go a moment after they end
        while self._home.is_dir() and time.monotonic() < end:
            for group in (*self._home.glob("*/"), self._home):
                with suppress(OSError):
                    group.rmdir()
            time.sleep(0.1)

    def enter(self, name: str) -> list[str]:
        """Words before a command that make it, and what it starts, a part of a host's group."""
        group = self._home / name
        group.mkdir(exist_ok=True)
        self._limit(group, None)
        return ["sh", "-c", 'echo 0 > "$0/cgroup.procs"; exec "$@"', str(group)]

    def limit(self) -> None:
        """From now on hosts have their quota: a Ray node that starts with less than a core may be too slow to start."""
        for group in self._home.glob("*/"):
            if group.name != _REST:
                self._limit(group, self._cores)

    def _limit(self, group: Path, cores: float | None) -> None:
        quota = None if cores is None else int(cores * _PERIOD_US)
        if self._old:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota or -1))
        else:
            (group / "cpu.max").write_text(f"{quota or 'max'} {_PERIOD_US}")
