"""A lab of several hosts on one machine, with Ray on them and a store with S3 and MLflow; for tests and by hand.

    python infra/lab/hosts.py 3            # a store and three hosts with Ray, and a shell on the first of them

What a host is, and that nothing is left of it: ``namespaces.py``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # for this file as a program; last, as it has a folder called platform

from infra.lab.namespaces import Host, LabError, Network, lacking, run

from rayscale.local import mlflow, processes, s3

STORE = "store"
PORTS = {"s3": 9000, "mlflow": 5000}
_SERVICES = {"s3": s3.service, "mlflow": mlflow.service}
_HEALTH = {"s3": "healthcheck", "mlflow": "health"}
# What the servers, which listen on loopback only, add to their port: below those the kernel gives to connections, of which one
# could meet itself before the server listens.
_INNER = 10000
_OTHERS = ("RAY_", "AWS_", "MLFLOW_", "RAYSCALE_", "OMP_")  # of this process: another cluster
_RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "30",  # longer than a raylet waits for its agent
    # A host without power is missed after some 10 s instead of 25.
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}
_NODE = (
    "--dashboard-agent-listen-port=52365", "--dashboard-agent-grpc-port=52366",
    "--runtime-env-agent-port=52367", "--metrics-export-port=8080", "--temp-dir=/tmp/ray",
    "--object-store-memory=100000000", "--block", "--disable-usage-stats",
)  # fmt: skip
# A raylet ends whose agent takes more than 15 s to start, as on a busy machine (ray issue 65983).
_AGAIN = 'for i in 1 2 3 4 5 6; do "$@"; [ $? = 1 ] || exit; rm -rf /tmp/ray; done'
_NOTICE = """
import sys, time
import ray
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
gcs = ray._raylet.GcsClient(address=sys.argv[1])
for node, info in gcs.get_all_node_info().items():
    if info.node_manager_address == sys.argv[2] and info.state == 0:
        end = int(1000 * (time.time() + float(sys.argv[3])))
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = gcs.drain_node(node.hex(), reason, "", end)
        sys.exit(0 if accepted else why)
sys.exit("no such node")
"""


class Lab(Network):
    """Hosts with a Ray node of ``cpus`` CPUs each; the first is the head. ``variables`` are those of all that runs there."""

    def __init__(self, folder: Path, *, cpus: int = 1) -> None:
        super().__init__(folder)
        self.cpus = cpus
        self.head = ""
        self.variables: dict[str, str] = dict(_RAY)

    def add(
        self, name: str, *, held: Sequence[str] = (), cpus: int | None = None, wait: bool = True
    ) -> Host:
        """A further host with Ray; ``held`` are words before its command, such as ``taskset -c 0``."""
        self.head = self.head or name
        host = self.plug(name)
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *_NODE]
        ray += [
            f"--num-cpus={self.cpus if cpus is None else cpus}",
            f"--node-ip-address={host.address}",
        ]
        if name == self.head:
            ray += ["--head", "--port=6379", "--include-dashboard=false"]
        else:
            ray.append(f"--address={self.addresses[self.head]}:6379")
        self._log(name).write_bytes(b"")
        variables = self.environment()
        del variables["RAY_ADDRESS"]
        self.enter(name, [*held, "sh", "-c", _AGAIN, "sh", *ray], self._log(name), variables)
        if wait:
            self.await_ray(name)
        return host

    def join(self, name: str, *, wait: bool = True) -> Host:
        """A host that was pulled is back, started anew: with its address and the files it had, without any process."""
        self.pull(name)
        return self.add(name, wait=wait)

    def await_ray(self, *names: str) -> None:
        """Until the nodes of these hosts have started."""
        for name in names:
            log = self._log(name)
            _await(lambda log=log: b"Ray runtime started" in log.read_bytes(), log)  # type: ignore[misc]

    def notice(self, name: str, seconds: float) -> None:
        """Tell Ray that a host goes in so many seconds, as a cloud does before it takes a machine back."""
        head = f"{self.addresses[self.head]}:6379"
        ask = [sys.executable, "-c", _NOTICE, head, self.hosts[name].address, str(seconds)]
        variables = [f"{key}={value}" for key, value in _RAY.items()]
        run(["env", *variables, *self.command(self.head, ask)])

    def terminate(self, name: str) -> None:
        """SIGTERM for Ray's first process, as a container gets it that is to end."""
        for process in self.hosts[name].processes():
            with suppress(psutil.Error):
                words = process.cmdline()
                if "ray.scripts.scripts" in words and words[0] != "sh":
                    process.terminate()

    def environment(self, **variables: str) -> dict[str, str]:
        """Of what runs on a host."""
        own = {k: v for k, v in os.environ.items() if not k.startswith(_OTHERS)}
        own["PYTHONPATH"] = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
        own |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        own |= {"RAYSCALE_CACHE_DIR": "/tmp/cache", "TMPDIR": "/tmp", **self.variables}
        if self.head:
            own["RAY_ADDRESS"] = f"{self.addresses.get(self.head)}:6379"
        return own | variables

    def find(self, words: str, *hosts: str) -> list[psutil.Process]:
        """Processes on these hosts, or on all, whose command or title has these words."""
        found = []
        for name in hosts or tuple(self.hosts):
            for process in self.hosts[name].processes():
                with suppress(psutil.Error):
                    if words in " ".join(process.cmdline()):
                        found.append(process)
        return found

    def start(
        self, name: str, command: list[str], log: str, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Run a command on a host; what it says goes to ``folder/log``."""
        return self.enter(name, command, self.folder / log, self.environment(**variables))

    def start_store(self, *services: str) -> None:
        """``s3``, and ``mlflow`` after it, on a host of their own; ``variables`` lead everybody there.

        A relay stands before each, which ``break_store`` breaks.
        """
        host = self.plug(STORE)
        home = self.folder / STORE
        home.chmod(0o700)
        key, secret = s3.keys(home)
        address = f"http://{host.address}:{PORTS['s3']}"
        self.variables |= {
            "AWS_ENDPOINT_URL": address, "MLFLOW_S3_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": s3.REGION, "AWS_DEFAULT_REGION": s3.REGION,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }  # fmt: skip
        for name in services:
            self._start_service(name, host, home)
        if "mlflow" in services:
            self.variables |= mlflow.client_environment(home, PORTS["mlflow"], host.address)

    def _start_service(self, name: str, host: Host, home: Path) -> None:
        port, log = PORTS[name], self.folder / f"{name}.log"
        service = _SERVICES[name](home, port + _INNER)
        # MLflow knows the host of the relay by no other way.
        variables = {**service.environment, "MLFLOW_SERVER_ALLOWED_HOSTS": "*"}
        self.start(STORE, ["env", "-C", str(service.cwd), *service.command], log.name, **variables)
        relay = [sys.executable, str(ROOT / "infra/lab/relay.py"), str(self._mode(name))]
        relay += [host.address, str(port), str(port + _INNER)]
        self.start(STORE, relay, f"{name}-relay.log")
        _await(lambda: processes.answers(f"http://{host.address}:{port}/{_HEALTH[name]}"), log)
        if name == "s3":
            self._make_bucket()

    def _make_bucket(self) -> None:
        """That of MLflow's artifacts."""
        import boto3

        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
        url, key, secret, region = (self.variables[name] for name in names)
        boto3.session.Session().client(
            "s3", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret,
            region_name=region,
        ).create_bucket(Bucket=mlflow.BUCKET)  # fmt: skip

    def break_store(self, name: str, mode: str) -> None:
        """How the relay before ``s3`` or ``mlflow`` treats connections: see ``relay.py``; "" is well."""
        new = self._mode(name).with_suffix(".new")
        new.write_text(mode)
        new.replace(self._mode(name))

    def broken(self, name: str) -> int:
        """Connections that the relay before a store has broken so far."""
        return len((self.folder / f"{name}-relay.log").read_bytes().splitlines())

    def _mode(self, name: str) -> Path:
        return self.folder / f"{name}.mode"

    def _log(self, name: str) -> Path:
        return self.folder / name / "ray.log"


def _await(ready: Callable[[], bool], log: Path, timeout_s: float = 400) -> None:
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            said = log.read_text(errors="replace").splitlines()[-8:] if log.is_file() else []
            raise LabError(f"nothing after {timeout_s:g} s; {log} ends with\n" + "\n".join(said))
        time.sleep(0.1)


def main() -> int:
    """A lab and a shell in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hosts", type=int, nargs="?", default=3, help="hosts with Ray (default: 3)")
    parser.add_argument("--cpus", type=int, default=1, help="of each, for Ray (default: 1)")
    options = parser.parse_args()
    if reason := lacking():
        print(f"no lab: {reason}", file=sys.stderr)
        return 2
    names = [f"host-{number}" for number in range(1, options.hosts + 1)]
    with (
        tempfile.TemporaryDirectory(prefix="lab-") as folder,
        Lab(Path(folder), cpus=options.cpus) as lab,
    ):
        lab.start_store("s3", "mlflow")
        for name in names:
            print(f"starting {name}", flush=True)
            lab.add(name, wait=name == names[0])
        lab.await_ray(*names)
        print("leave the shell to end all; to pull the plug of a host, kill its first process:")
        for host in lab.hosts.values():
            print(f"  {host.name:8} {host.address:14} kill -9 {host.pid}")
        shell = lab.command(names[0], ["bash", "-i"])
        return subprocess.run(shell, env=lab.environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
