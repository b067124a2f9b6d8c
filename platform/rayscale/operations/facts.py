"""What a machine says of itself: versions, clock, disks, limits, GPUs and the names it can resolve.

Gathered here, and by a task on every node of a cluster; plain values, so that nodes with different versions can be compared.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("rayscale", "ray", "torch", "numpy", "mlflow", "boto3")
"""Whose versions are told."""


def gather(hosts: Iterable[str] = ()) -> dict[str, Any]:
    """The facts of this machine; ``hosts`` are names that it should know.

    ``clock`` is in seconds since 1970; ``disks`` map what a folder is for to path, free and total bytes; ``names`` map hosts
    to what is wrong with them, "" where they resolve.
    """
    from rayscale import machine
    from rayscale.inference.memory import memory_limit
    from rayscale.settings import get_settings

    settings = get_settings()
    folders = {
        "cache": settings.cache_dir,
        "temporary files": Path(tempfile.gettempdir()),
        "shared memory": Path("/dev/shm"),
    }
    return {
        "host": socket.gethostname(),
        "clock": time.time(),
        "versions": {"python": platform.python_version(), **_versions()},
        "cpus": machine.cpu_count(),
        "memory": memory_limit(),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "disks": {name: _space(path) for name, path in folders.items() if _above(path)},
        "gpus": _gpus(),
        "driver": Path("/proc/driver/nvidia/version").exists(),
        "names": {host: _resolve(host) for host in {*hosts, socket.gethostname()}},
    }


def _versions() -> dict[str, str]:
    from rayscale import __version__

    found = {"rayscale": __version__}  # also where a checkout runs that is not installed
    for package in PACKAGES[1:]:
        try:
            found[package] = metadata.version(package).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def _above(path: Path) -> Path | None:
    """The folder, or the nearest above it that is there."""
    return next((each for each in (path, *path.parents) if each.is_dir()), None)


def _space(path: Path) -> dict[str, Any]:
    folder = _above(path) or Path("/")
    usage = shutil.disk_usage(folder)
    return {
        "path": str(path),
        "free": usage.free,
        "total": usage.total,
        "writable": os.access(folder, os.W_OK),
    }


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _resolve(host: str) -> str:
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        return error.strerror or str(error)
    return ""
