"""Hosts out of Linux namespaces, each with a network, processes, a /tmp and a name of its own, on one bridge.

The first process of a host reads from a pipe that this process holds. Whatever becomes of this process, kill -9 included, the
pipe closes, the first process ends, and the kernel ends all others of the host and takes its network and mounts away. Needs
root and iproute2; nothing outside can be reached from a host.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

ROOT = Path(__file__).resolve().parents[2]

_SWITCH = "ip link add br0 type bridge && ip link set br0 up && echo ready && exec cat"
_HOST = """
set -e
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/resolv.conf" /etc/resolv.conf
for shared in "$2" "$3"; do
  case "$shared" in
    /tmp/*) mkdir -p "$2/$1$shared"; mount --rbind "$shared" "$2/$1$shared";;
  esac
done
mount --rbind "$2/$1/tmp" /tmp
mount -t tmpfs -o size=1g,mode=1777 shm /dev/shm
ip link set lo up
echo ready
exec cat
"""
_ANSWER_S = 5.0
_UNSHARE = "unshare --net --pid --fork --kill-child --uts --mount --mount-proc"


class LabError(Exception):
    """A host that could not be made or did not start; the message has its last words."""


def lacking() -> str:
    """Why this machine can have no hosts; empty where it can."""
    if sys.platform != "linux":
        return "hosts are namespaces of Linux"
    try:
        with tempfile.TemporaryDirectory(prefix="lab-") as folder, Network(Path(folder)) as network:
            address = network.plug("probe").address
            with suppress(ConnectionRefusedError):  # the host says that nobody listens: it is there
                socket.create_connection((address, 9), timeout=_ANSWER_S).close()
    except (LabError, OSError) as error:
        return f"hosts need root, namespaces, iproute2 and util-linux ({error})"
    return ""


@dataclass
class Host:
    """A host that is there; ``pid`` is that of its first process, seen from outside."""

    name: str
    address: str
    process: subprocess.Popen[bytes]
    pid: int
    entered: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def processes(self) -> list[psutil.Process]:
        """Those that run here; Ray's workers tell their actor in their title."""
        mine = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with suppress(OSError):
                if os.readlink(f"/proc/{process.pid}/ns/pid") == mine:
                    found.append(process)
        return found

    def titles(self) -> list[str]:
        """What they call themselves."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return found


class Network:
    """Hosts on one bridge, which this machine joins as ``.254``; use it in a ``with`` statement.

    Files below ``folder`` and of the checkout are the same on all hosts; other files of ``/tmp`` are each host's own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.hosts: dict[str, Host] = {}
        self.addresses: dict[str, str] = {}
        self._links = 0
        self._mine = ""

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._switch = _hold(["unshare", "--net", "sh", "-c", _SWITCH])
        try:
            self._net = self._join_switch()
        except BaseException:
            self.close()
            raise
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n")
        # Other names are unknown at once: nobody listens there.
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of every host; their networks go with them."""
        for name in list(self.hosts):
            self.pull(name)
        self._switch.kill()
        self._switch.wait()
        run(f"ip link del {self._mine}", check=False)  # the kernel would do it a moment later
        _close_pipes(self._switch)

    def plug(self, name: str) -> Host:
        """A host with nothing on it; one that was pulled has its address and its files again."""
        if name not in self.addresses:
            self.addresses[name] = f"{self._net}.{len(self.addresses) + 1}"
            with (self.folder / "hosts").open("a") as file:  # hosts that are there see it
                file.write(f"{self.addresses[name]} {name}\n")
        (self.folder / name / "tmp").mkdir(parents=True, exist_ok=True)
        script = ["sh", "-c", _HOST, "sh", name, str(self.folder), str(ROOT)]
        process = _hold([*shlex.split(_UNSHARE), *script])
        (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        host = self.hosts[name] = Host(name, self.addresses[name], process, int(pid))
        self._links += 1
        link, switch = f"h{self._links}", self._switch.pid
        run(f"ip link add {link} netns {switch} type veth peer name eth0 netns {pid}")
        run(f"nsenter -t {switch} -n ip link set {link} master br0 up")
        run(f"nsenter -t {pid} -n ip addr add {host.address}/24 dev eth0")
        run(f"nsenter -t {pid} -n ip link set eth0 up")
        run(f"nsenter -t {pid} -n ip route add default dev eth0")
        return host

    def pull(self, name: str) -> None:
        """Pull the plug: first the link is dead, then every process. Nobody is told anything."""
        host = self.hosts.pop(name, None)
        if host is None:
            return
        run(f"nsenter -t {host.pid} -n ip link set eth0 down", check=False)
        os.kill(host.pid, signal.SIGKILL)  # the kernel kills all others of its namespace
        for process in (host.process, *host.entered):
            process.wait()
        _close_pipes(host.process)

    def command(self, name: str, command: list[str]) -> list[str]:
        """The same command on a host, in the checkout."""
        enter = f"nsenter -t {self.hosts[name].pid} -n -p -m -u -- env -C"
        return [*shlex.split(enter), str(ROOT), *command]

    def enter(
        self, name: str, command: list[str], log: Path, variables: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        """Run a command on a host; what it says goes to ``log``. A group of its own: ``os.killpg`` ends all of it."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                self.command(name, command), env=variables,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self.hosts[name].entered.append(process)
        return process

    def _join_switch(self) -> str:
        """Give this machine a place at the bridge; the first three numbers of all addresses."""
        switch = self._switch.pid
        for number in range(256):
            mine = f"rs-lab-{number}"
            try:
                run(f"ip link add {mine} type veth peer name up0 netns {switch}")
            except LabError as error:
                if "exists" in str(error):
                    continue
                raise
            self._mine, net = mine, f"198.18.{number}"  # for tests of networks (RFC 2544)
            run(f"nsenter -t {switch} -n ip link set up0 master br0 up")
            run(f"ip addr add {net}.254/24 dev {mine}")
            run(f"ip link set {mine} up")
            return net
        raise LabError("this machine has 256 labs")


def run(command: str | list[str], *, check: bool = True) -> None:
    """Run a command; LabError with what it says, should it fail."""
    words = shlex.split(command) if isinstance(command, str) else command
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise LabError(f"{shlex.join(words)[:300]}: {done.stderr.strip()}")


def _hold(command: list[str]) -> subprocess.Popen[bytes]:
    """Start what ends when its standard input does, once it says that it is ready."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if process.stdout.readline() != b"ready\n":
        process.kill()
        said = process.stderr.read().decode(errors="replace").strip()
        _close_pipes(process)
        raise LabError(said or "a namespace ended as it was made")
    return process


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
