"""Joining a Ray cluster, or starting one inside this process; nothing about what runs on it.

Used by everything that drives Ray (jobs, sweeps, batch, the command line), so that an address, an
enclosing job and a laptop without any cluster behave alike.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayscale.errors import ConfigError, RayscaleError
from rayscale.settings import shared_variables

CONNECT_TIMEOUT_S = 20.0


def connect(
    num_cpus: int | None = None,
    *,
    address: str | None = None,
    dashboard: bool = False,
    log_to_driver: bool = True,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> str:
    """Join the cluster of ``address`` or ``RAY_ADDRESS``, else start an embedded Ray.

    Inside ``ray job submit`` Ray sets ``RAY_ADDRESS`` itself. A process that is connected already
    keeps its connection. ``num_cpus`` sizes the embedded Ray only (default: the cores of the
    machine); ``dashboard`` starts its dashboard, for this machine alone: without one, Ray Train cannot
    clean up after a run that Ray Tune stops early, and its workers' places stay reserved forever.
    Returns the address joined, or ``"embedded"``.

    Raises ConfigError for an address that cannot be read, RayscaleError for one where no Ray
    answers within ``timeout_s`` seconds.
    """
    _set_defaults()
    import ray

    if ray.is_initialized():
        return str(ray.get_runtime_context().gcs_address)
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    with _own_sigterm():
        return _join(target, num_cpus, dashboard, log_to_driver, timeout_s)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what this process does on SIGTERM: Ray puts a handler of its own in its place, which cleans up nothing of ours."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # that handler's, in the seconds until the one before is back
        if callable(before):
            before(signal.SIGTERM, None)
        raise
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _join(
    target: str, num_cpus: int | None, dashboard: bool, log_to_driver: bool, timeout_s: float
) -> str:
    """Start or join the cluster of ``target``; what it is called."""
    import ray

    from rayscale.cluster import console

    console.hush()
    common: dict[str, Any] = {
        "log_to_driver": log_to_driver,
        "logging_level": "WARNING",
        "ignore_reinit_error": True,
    }
    if target == "local":
        _prepare_embedded()
        _start_embedded(num_cpus, common | {"include_dashboard": dashboard})
        return "embedded"
    _await_listener(target, timeout_s)
    _reread_environment()
    try:
        ray.init(address=target, runtime_env=_runtime_env(), **common)
    except (ConnectionError, RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
        raise RayscaleError(
            f"no Ray cluster could be joined at RAY_ADDRESS={target}: {_first_line(error)}. "
            "Start one (`rayscale up`, `ray start --head`), correct RAY_ADDRESS (and RAY_AUTH_TOKEN "
            "where the cluster asks for one), or unset it to use an embedded Ray."
        ) from error
    return target


def scratch(uri: str, *, grows: bool = False) -> str:
    """Where Ray keeps its own bookkeeping of the runs below ``uri``.

    A folder of this machine when it is the only node, and will be (not ``grows``); else a folder beside the runs, because
    Ray wants a place that all nodes share. Nothing in it is needed afterwards.
    """
    import ray

    if grows or sum(node["Alive"] for node in ray.nodes()) > 1:
        return f"{uri.rstrip('/')}/ray"
    return str(Path(tempfile.gettempdir()) / f"rayscale-ray-{os.getuid()}")  # others have theirs


def shutdown() -> None:
    """Leave the cluster; an embedded Ray stops with all its processes."""
    import ray

    ray.shutdown()


def _set_defaults() -> None:
    """Ray's switches that must be in the environment before Ray is imported."""
    # One report is taken per poll: at the default of 2 s reporting would throttle short runs.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray 2.60 warns about this change of a default on every actor without accelerators.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _reread_environment() -> None:
    """Make an imported Ray see variables that were set since: it reads some of them at its import only.

    A driver that missed RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 would look for a head on loopback at the network
    card's address, one that missed RAY_AUTH_MODE would come without its token.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    native: Any = importlib.import_module("ray._raylet")
    name = constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    constants.ENABLE_RAY_CLUSTER = constants.env_bool(name, not constants.IS_WINDOWS_OR_OSX)
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()


def _prepare_embedded() -> None:
    """Environment of an embedded Ray: private, and its workers find this very package."""
    if "RAY_AUTH_MODE" not in os.environ:
        # A token of this process alone: other users of the machine cannot connect, and Ray does
        # not write a token file into the home folder that every later `ray start` would pick up.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        _reread_environment()
    source = str(_package().parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if source not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([source, *filter(None, paths)])


def _start_embedded(num_cpus: int | None, options: dict[str, Any]) -> None:
    """Start Ray in this process; once more when a busy machine needed longer than Ray waits (30 s)."""
    import ray

    for last in (False, True):
        try:
            ray.init(address="local", num_cpus=num_cpus, **options)
            return
        except Exception as error:  # that is what Ray raises, literally
            ray.shutdown()
            if last:
                raise RayscaleError(
                    f"an embedded Ray could not be started: {_first_line(error)} Its logs are below "
                    "/tmp/ray; on a busy or small machine try again later, or set RAY_ADDRESS to a cluster"
                ) from error


def _runtime_env() -> dict[str, Any]:
    """What the workers of a joined cluster need from here: the limits, and this package, when it is a checkout.

    An installed package is expected on the cluster too; a job that ships ``py_modules`` or sets a variable itself
    wins, because Ray refuses the same from the job and its driver.
    """
    enclosing = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    enclosing = enclosing.get("runtime_env") or {}
    environment: dict[str, Any] = {}
    set_there = enclosing.get("env_vars") or {}
    variables = {k: v for k, v in shared_variables().items() if k not in set_there}
    if variables:
        environment["env_vars"] = variables
    in_checkout = (_package().parents[1] / "pyproject.toml").is_file()
    if in_checkout and "py_modules" not in enclosing:
        environment |= {"py_modules": [str(_package())], "excludes": ["**/__pycache__"]}
    return environment


def _package() -> Path:
    return Path(__file__).resolve().parents[1]


def _await_listener(target: str, timeout_s: float) -> None:
    """Fail early and clearly when nobody listens: ``ray.init`` itself would wait for minutes."""
    if target == "auto":
        return
    bare = target.removeprefix("ray://")
    host, separator, port = bare.rpartition(":")
    if not separator or not port.isdigit():
        raise ConfigError(
            f"RAY_ADDRESS={target!r} is not an address: give HOST:PORT (as `ray start` prints it), "
            "ray://HOST:PORT, or `auto`."
        )
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=max(1.0, timeout_s / 4)):
                return
        except OSError as error:
            # A head that is just starting answers a moment later; a wrong name never does.
            if time.monotonic() >= deadline:
                raise RayscaleError(
                    f"nothing answered at RAY_ADDRESS={target} within {timeout_s:g} s ({error}). "
                    "Start the cluster (`rayscale up`, `ray start --head`), correct the address, or "
                    "unset RAY_ADDRESS to use an embedded Ray."
                ) from error
            time.sleep(0.25)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
