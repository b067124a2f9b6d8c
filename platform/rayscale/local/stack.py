"""The stack as a whole: bring it up, take it down, say how it is, say how to reach it.

State is in ``<home>/stack.json``; ``<home>/stack.env`` is for a shell to source. Both are for the owner only, as
are keys and tokens. One stack has one home; stacks with different homes run side by side.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayscale import extras, strictjson
from rayscale.errors import ConfigError, RayscaleError
from rayscale.files import replacing
from rayscale.interruption import Interrupted, shield, watch
from rayscale.local import mlflow, processes, prometheus, ray, s3
from rayscale.local.processes import Service
from rayscale.settings import checkout

SERVICES = ("s3", "mlflow", "ray")
"""What a stack has."""
MONITORING = "prometheus"
"""What it may have besides."""
_ALL = (*SERVICES, MONITORING)
# Each service's ports by name, with the number that is tried first.
_PORTS = {
    "s3": {"s3": 9000},
    "mlflow": {"mlflow": 5000},
    "ray": {"ray": 6379, "dashboard": 8265, "serve": 8000, "agent": 52365, "client": 10001},
    MONITORING: {"prometheus": 9090},
}
_BUCKETS = ("rayscale", mlflow.BUCKET)
# How often to start when others take the ports in between: two stacks that start at once choose the same ones.
_ATTEMPTS = 3
# What a shell may carry from elsewhere and would lead a service to the wrong server.
_FOREIGN = ("AWS_", "MLFLOW_", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Addresses:
    """How to reach the services that were asked for; empty text for the others.

    ``ray`` is the ``host:port`` that drivers join, ``dashboard`` the URL for a browser and for ``ray job
    submit``, ``serve`` the URL at which an application will answer once it is deployed.
    """

    s3: str
    access_key: str
    secret_key: str = field(repr=False)
    mlflow: str
    ray: str
    dashboard: str
    serve: str
    prometheus: str = ""


@dataclass(frozen=True)
class ServiceStatus:
    """One service: whether it runs and answers, where, and the process to look at."""

    name: str
    running: bool
    address: str
    pid: int | None


def up(
    home: Path,
    services: Sequence[str] = SERVICES,
    progress: Progress | None = None,
    *,
    num_cpus: int | None = None,
    fixed_ports: bool = True,
) -> Addresses:
    """Start what is not running of ``services`` and return when all of it answers.

    What runs already is left alone. If anything fails or the user interrupts, no process of this call is left.
    ``fixed_ports`` prefers the well-known ports (S3 9000, MLflow 5000, dashboard 8265, Ray 6379, Serve 8000);
    a port once used is used again. ``num_cpus`` is what Ray offers, by default the cores of the machine.
    """
    unknown = set(services) - set(_ALL)
    if unknown:
        raise ConfigError(f"unknown services {sorted(unknown)}; there are {', '.join(_ALL)}")
    if MONITORING in services and prometheus.program() is None:
        raise ConfigError(
            "Prometheus is not installed, so this stack can have no monitoring; install it (Debian: apt-get install prometheus)"
        )
    extras.load("swift", "local")
    home = _resolve(home)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    say = progress or (lambda _: None)
    with _exclusive(home, say), watch():
        state = _State.read(home)
        # The others keep their data in the S3 server, so it is always one of them.
        wanted = [n for n in _ALL if n == "s3" or n in services or n in state.running()]
        state.stop(set(_ALL) - set(state.running()))  # what a crash left may hold their ports
        for attempts_left in reversed(range(_ATTEMPTS)):
            state.choose_ports(wanted, fixed_ports)
            kept = {name for name in wanted if state.is_usable(name, wanted)}
            try:
                state.stop(set(_ALL) - kept)
                _start(state, wanted, kept, say, num_cpus)
                variables = state.environment(wanted)
                exports = (f"export {n}={shlex.quote(value)}\n" for n, value in variables.items())
                _write_private(home / "stack.env", "".join(exports))
                break
            except BaseException as error:
                with shield():  # an impatient second Ctrl-C must not leave half of it
                    say("stopping what was started")
                    state.stop(set(_ALL) - kept)
                lost = isinstance(error, RayscaleError) and state.has_lost_ports(wanted)
                if not lost or not attempts_left:
                    raise
                say("another program was faster to one of the ports; starting again with others")
        return state.addresses()


def down(home: Path) -> None:
    """End every process of the stack, also those a crash left; data stays. Nothing running is not an error.

    A signal waits until all is done; the second ends this process at once.
    """
    home = _resolve(home)
    alone = _exclusive(home, lambda _: None) if home.is_dir() else nullcontext()
    with alone, watch(deferred=True) as asked:
        before = asked()  # this may be the cleaning up after a signal
        _State.read(home).stop(set(_ALL))
        ray.clear_temporary(home)
        (home / "stack.env").unlink(missing_ok=True)
        if (number := asked()) and not before:
            raise Interrupted(number, "the local stack is down all the same")


def status(home: Path) -> list[ServiceStatus]:
    """Each service of the stack that was ever started, in the order they start."""
    state = _State.read(_resolve(home))
    report = []
    for name in _ALL:
        if name in state.services:
            pid = state.services[name]["pid"]
            running = state.is_running(name) and state.service(name).ready()
            report.append(
                ServiceStatus(name, running, state.service(name).address, pid if running else None)
            )
    return report


def environment(home: Path) -> dict[str, str]:
    """The variables that make boto3, MLflow, Ray and rayscale use the stack: those of its running services."""
    state = _State.read(_resolve(home))
    return state.environment(state.running())


class _State:
    """What ``stack.json`` remembers: ports, and per service the pid, its start time and its settings."""

    def __init__(self, home: Path, ports: dict[str, int], services: dict[str, Any]) -> None:
        self.home = home
        self.ports = ports
        self.services = services

    @classmethod
    def read(cls, home: Path) -> _State:
        path = home / "stack.json"
        kept = json.loads(path.read_text()) if path.is_file() else {}
        return cls(home, kept.get("ports", {}), kept.get("services", {}))

    def write(self) -> None:
        text = strictjson.dumps({"ports": self.ports, "services": self.services}, indent=1)
        _write_private(self.home / "stack.json", text)

    def is_running(self, name: str) -> bool:
        record: dict[str, Any] = self.services.get(name, {})
        return bool(record) and processes.alive(record["pid"], record["started"])

    def running(self) -> list[str]:
        return [name for name in _ALL if self.is_running(name)]

    def service(self, name: str, num_cpus: int | None = None) -> Service:
        if name == "s3":
            return s3.service(self.home, self.ports["s3"])
        if name == "mlflow":
            return mlflow.service(self.home, self.ports["mlflow"])
        if name == MONITORING:
            return prometheus.service(self.home, self.ports["prometheus"], self.ports["serve"])
        return ray.service(self.home, self.ports, num_cpus)

    def environment(self, services: Sequence[str]) -> dict[str, str]:
        variables: dict[str, str] = {}
        if "s3" in services:
            access_key, secret_key = s3.keys(self.home)
            endpoint = f"http://{s3.HOST}:{self.ports['s3']}"
            variables |= {
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": access_key,
                "AWS_SECRET_ACCESS_KEY": secret_key,
                "AWS_REGION": s3.REGION,
                "AWS_DEFAULT_REGION": s3.REGION,
                # Swift knows no checksum trailers, which boto3 adds to every upload by default.
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                "MLFLOW_S3_ENDPOINT_URL": endpoint,
            }
        if "mlflow" in services:
            variables |= mlflow.client_environment(self.home, self.ports["mlflow"])
        if "ray" in services:
            variables |= ray.client_environment(self.home, self.ports)
        if MONITORING in services:
            variables["RAYSCALE_PROMETHEUS"] = f"http://127.0.0.1:{self.ports['prometheus']}"
        return variables

    def addresses(self) -> Addresses:
        running = self.running()
        variables = self.environment(running)
        return Addresses(
            s3=variables.get("AWS_ENDPOINT_URL", ""),
            access_key=variables.get("AWS_ACCESS_KEY_ID", ""),
            secret_key=variables.get("AWS_SECRET_ACCESS_KEY", ""),
            mlflow=variables.get("MLFLOW_TRACKING_URI", ""),
            ray=variables.get("RAY_ADDRESS", ""),
            dashboard=variables.get("RAY_API_SERVER_ADDRESS", ""),
            serve=f"http://127.0.0.1:{self.ports['serve']}" if "ray" in running else "",
            prometheus=variables.get("RAYSCALE_PROMETHEUS", ""),
        )

    def choose_ports(self, services: Sequence[str], fixed: bool) -> None:
        """Keep the ports of running services, and others as far as they are still free."""
        running = self.running()
        for service in services:
            for name in _PORTS[service]:
                known = self.ports.get(name)
                if known and (service in running or processes.is_free(known, wait_s=1)):
                    continue
                preferred = _PORTS[service][name] if fixed else None
                self.ports[name] = processes.pick_port(preferred, self.ports.values())
        self.write()

    def has_lost_ports(self, services: Sequence[str]) -> bool:
        """Whether another program holds a port of a service of these that does not run."""
        stopped = set(services) - set(self.running())
        return any(
            not processes.is_free(self.ports[name], wait_s=1) for s in stopped for name in _PORTS[s]
        )

    def is_usable(self, name: str, wanted: Sequence[str]) -> bool:
        """Whether a service runs, answers, and was started with what the stack's variables are now."""
        return (
            self.is_running(name)
            and self.services[name]["settings"] == self.settings(name, wanted)
            and any(self.service(name).ready() for _ in range(3))
        )

    def settings(self, name: str, wanted: Sequence[str]) -> str:
        """A digest of the variables a service gets: where it changes, the service must start anew."""
        text = strictjson.dumps(self.environment(_before(name, wanted)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def start(self, name: str, wanted: Sequence[str], num_cpus: int | None) -> Service:
        service = self.service(name, num_cpus)
        base = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
        if root := checkout():  # the package need not be installed to be found
            paths = [str(root / "platform"), *filter(None, [base.get("PYTHONPATH")])]
            base["PYTHONPATH"] = os.pathsep.join(paths)
        if name == "ray":
            _own_folder(ray.temporary_folder(self.home))
        pid = processes.start(service, self.home, base | self.environment(_before(name, wanted)))
        self.services[name] = {
            "pid": pid,
            "started": processes.started_at(pid),
            "settings": self.settings(name, wanted),
        }
        self.write()
        return service

    def stop(self, names: set[str]) -> None:
        """End services with everything they started, whether or not they are on record."""
        roots = [(r["pid"], r["started"]) for name, r in self.services.items() if name in names]
        processes.end(lambda: processes.find(self.home, names, roots))
        self.services = {name: r for name, r in self.services.items() if name not in names}
        if self.home.is_dir():
            self.write()


def _start(
    state: _State, wanted: list[str], kept: set[str], say: Progress, num_cpus: int | None
) -> None:
    begun = time.monotonic()
    for names in (
        ["s3"],
        ["mlflow", "ray", MONITORING],
    ):  # MLflow and Ray take their seconds side by side
        pending: dict[str, Service] = {}
        for name in names:
            if name in kept:
                say(f"{name} is running at {state.service(name).address}")
            elif name in wanted:
                say(f"starting {name}")
                pending[name] = state.start(name, wanted, num_cpus)
        waiting_since = time.monotonic()
        while pending:
            for name, service in list(pending.items()):
                pid = state.services[name]["pid"]
                if processes.is_ready(service, state.home, pid, time.monotonic() - waiting_since):
                    del pending[name]
                    say(f"{name} is ready at {service.address} ({time.monotonic() - begun:.0f} s)")
            time.sleep(0.1)
        if "s3" in names:
            _make_buckets(state)


def _make_buckets(state: _State) -> None:
    """Make the buckets that are missing; signed with the stack's keys, so it also proves the server is ours."""
    import boto3.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    variables = state.environment(["s3"])
    try:
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            region_name=s3.REGION,
            config=Config(s3={"addressing_style": "path"}),
        )
        present = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        for bucket in _BUCKETS:
            if bucket not in present:
                client.create_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError) as error:
        raise RayscaleError(
            f"the server at {variables['AWS_ENDPOINT_URL']} does not work as this stack's S3: {error}"
        ) from error


def _before(name: str, wanted: Sequence[str]) -> list[str]:
    """The services that ``name`` uses, hence whose variables it gets."""
    return [other for other in _ALL[: _ALL.index(name)] if other in wanted]


def _resolve(home: Path) -> Path:
    return Path(home).expanduser().resolve()


def _own_folder(path: Path) -> None:
    """Make an empty folder under a name that others can guess, and see that it is ours alone."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError as error:
        raise RayscaleError(
            f"{path} cannot be replaced: another user may own it; delete it, or set RAYSCALE_HOME elsewhere"
        ) from error


def _write_private(path: Path, text: str) -> None:
    with replacing(path, private=True) as file:
        file.write(text.encode())


@contextmanager
def _exclusive(home: Path, say: Progress) -> Iterator[None]:
    """One command at a time per stack; the lock goes with its process, however that ends."""
    with (home / "stack.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another command is working on this stack; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
