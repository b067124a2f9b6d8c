"""A set-up, examined: this machine, every node of its cluster, object storage, MLflow, keys and tokens.

Nothing is assumed that can be tried. Each check stands alone: what fails keeps no other from being told.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rayscale.errors import ConfigError, RayscaleError, quantity
from rayscale.operations.facts import PACKAGES, gather
from rayscale.operations.findings import Finding, failing, ok
from rayscale.operations.nodes import ask_nodes
from rayscale.operations.rights import judge_clock, try_rights
from rayscale.settings import GIB, get_settings
from rayscale.storage import connect

_CONNECT_S = 5.0
_OPEN_FILES = 4096
_FULL = 0.95  # from which on Ray takes no objects


@dataclass(frozen=True)
class Examination:
    """What was found, and the facts of each machine, this one first."""

    findings: list[Finding]
    nodes: list[dict[str, Any]]

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return all(finding.state != "failed" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        findings = [finding.to_dict() for finding in self.findings]
        return {"healthy": self.healthy, "findings": findings, "nodes": self.nodes}


def examine(place: str | None = None, say: Callable[[str], None] = lambda _: None) -> Examination:
    """Examine this set-up, as its environment describes it.

    Args:
        place: ``s3://bucket/prefix`` or a folder where jobs will write; its rights are tried there.
        say: told what is being looked at.
    """
    say("this machine")
    here = gather(_hosts())
    findings = [*check_machine(here, "this machine"), *check_settings(), *check_token()]
    say("object storage")
    findings += check_storage(place)
    say("MLflow")
    findings += check_mlflow()
    say("the cluster")
    nodes: list[dict[str, Any]] = []
    findings += check_cluster(here, nodes)
    return Examination(findings, [here, *nodes])


def check_machine(facts: dict[str, Any], who: str) -> Iterator[Finding]:
    """What a machine says of itself: names, disks, limits, GPUs."""
    bad = {host: reason for host, reason in facts["names"].items() if reason}
    if bad:
        told = "; ".join(f"{host}: {reason}" for host, reason in bad.items())
        yield Finding(f"names: {who}", "failed", told, "correct the name, or DNS and /etc/hosts")
    else:
        yield ok(f"names: {who}", f"{quantity(len(facts['names']), 'name')} resolved")
    for name, disk in facts["disks"].items():
        yield _judge_disk(f"disk: {who}: {name}", name, disk)
    if facts["open_files"] < _OPEN_FILES:
        advice = f"raise it: ulimit -n {16 * _OPEN_FILES}, or LimitNOFILE of the unit"
        yield Finding(f"open files: {who}", "warning", f"{facts['open_files']} at most", advice)
    else:
        yield ok(f"open files: {who}", f"{facts['open_files']} at most")
    memory = f"{facts['cpus']} CPUs, {facts['memory'] / GIB:.1f} GiB"
    if facts["memory"] < 2 * GIB:
        yield Finding(
            f"memory: {who}", "warning", memory, "a node needs 2 GiB, and more for scenes"
        )
    else:
        yield ok(f"memory: {who}", memory)
    if facts["driver"] and not facts["gpus"]:
        advice = "install the torch with CUDA (docs/quickstart.md), or give the container its GPU"
        yield Finding(f"GPU: {who}", "failed", "there is a driver, but torch sees no GPU", advice)
    else:
        yield ok(f"GPU: {who}", ", ".join(facts["gpus"]) or "none")


def _judge_disk(check: str, name: str, disk: dict[str, Any]) -> Finding:
    found = f"{disk['free'] / GIB:.1f} of {disk['total'] / GIB:.1f} GiB free at {disk['path']}"
    if not disk["writable"]:
        return Finding(check, "failed", f"{disk['path']} cannot be written", "give it to this user")
    if name == "shared memory":
        if disk["total"] < GIB // 2:
            advice = "give the container more (`docker run` with a larger shm-size, RAY_SHM_SIZE of compose)"
            return Finding(check, "warning", found, advice)
    elif disk["free"] < GIB or disk["free"] < (1 - _FULL) * disk["total"]:
        way_out = "RAYSCALE_CACHE_DIR" if name == "cache" else "TMPDIR"
        advice = f"free some (`rayscale gc`), or set {way_out} to another disk; Ray stops at 95 %"
        return Finding(check, "failed" if disk["free"] < GIB // 4 else "warning", found, advice)
    return ok(check, found)


def check_settings() -> Iterator[Finding]:
    """Whether the settings can be read, and who may call the service."""
    from pydantic import ValidationError

    from rayscale.serving.settings import get_serve_settings

    advice = "correct the variable; `rayscale settings` lists all"
    found: list[Finding] = []
    with failing("settings", advice, found.append):
        try:
            get_settings()
        except ValidationError as error:
            raise ConfigError(f"a RAYSCALE_ variable cannot be read: {error}") from error
        access = get_serve_settings().access()
        found.append(ok("settings", "all are sound"))
        if access == "open":
            keys = "make keys (`rayscale keys add`), unless only those who may reach the port do"
            found.append(Finding("service keys", "warning", "open to all who reach it", keys))
        else:
            found.append(ok("service keys", access))
    yield from found


def check_token() -> Iterator[Finding]:
    """Whether Ray asks for a token, and whether others can read it."""
    if os.environ.get("RAY_ADDRESS") in (None, "", "local"):
        return
    check = "Ray token"
    if os.environ.get("RAY_AUTH_MODE") != "token":
        advice = "start every node with RAY_AUTH_MODE=token, and set it here; without one whoever reaches Ray runs code"
        yield Finding(check, "warning", "RAY_AUTH_MODE is not token", advice)
        return
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if os.environ.get("RAY_AUTH_TOKEN"):
        yield ok(check, "set by RAY_AUTH_TOKEN")
    elif not path or not os.access(path, os.R_OK):
        told = f"{path} cannot be read" if path else "there is none"
        advice = "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to that of the cluster"
        yield Finding(check, "failed", told, advice)
    elif stat.S_IMODE(Path(path).stat().st_mode) & 0o077:
        yield Finding(check, "warning", f"others may read {path}", f"chmod 600 {path}")
    else:
        yield ok(check, path)


def check_storage(place: str | None) -> list[Finding]:
    """Whether the server is there, and what a place allows."""
    if place is None:
        advice = "name a place where jobs write, as in rayscale doctor s3://bucket/prefix"
        return [Finding("storage", "skipped", "no place was named", advice)]
    found: list[Finding] = []
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if place.startswith("s3://") and endpoint and (problem := _reach(endpoint)):
        return [
            Finding(
                "storage: server",
                "failed",
                problem,
                "correct AWS_ENDPOINT_URL, or start the server",
            )
        ]
    with failing("storage", "correct the address", found.append):
        found += try_rights(connect(place))
    return found


def check_mlflow() -> list[Finding]:
    """Whether the registry answers, and lists its models."""
    from rayscale.registry.client import NoRegistryError, asking, tracking_uri
    from rayscale.registry.client import connect as connect_mlflow

    found: list[Finding] = []
    try:
        uri = tracking_uri()
    except NoRegistryError as error:
        advice = "set it where models are registered or served by name"
        return [Finding("MLflow", "skipped", str(error).partition(",")[0], advice)]
    if problem := _reach(uri):
        return [
            Finding("MLflow", "failed", problem, "correct MLFLOW_TRACKING_URI, or start the server")
        ]
    with failing("MLflow", "see MLflow's own log", found.append), asking("list registered models"):
        models = connect_mlflow().search_registered_models(max_results=100)
        found.append(ok("MLflow", f"{uri}: {quantity(len(models), 'registered model')}"))
    return found


def check_cluster(here: dict[str, Any], nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    """Every node of the cluster of RAY_ADDRESS: it answers, has our versions and clock, and is sound itself."""
    address = os.environ.get("RAY_ADDRESS")
    if address in (None, "", "local"):
        advice = "set RAY_ADDRESS to examine a cluster"
        yield Finding("cluster", "skipped", "RAY_ADDRESS is not set", advice)
        return
    found: list[Finding] = []
    with failing("cluster", "see the end of the message", found.append):
        answers = list(ask_nodes(gather, _hosts()))
        found.append(ok("cluster", f"{address}: {quantity(len(answers), 'node')}"))
        for name, facts, apart in answers:
            found += judge_node(name, facts, apart, here)
            if isinstance(facts, dict):
                nodes.append(facts)
    yield from found


def judge_node(
    name: str, facts: dict[str, Any] | str, apart: float, here: dict[str, Any]
) -> Iterator[Finding]:
    """Findings of one node; ``facts`` is a text where it could not tell any."""
    if isinstance(facts, str):
        advice = "install the same rayscale there (the same image on every node), and see the logs of that node"
        yield Finding(f"node: {name}", "failed", facts, advice)
        return
    theirs, ours = facts["versions"], here["versions"]
    other = [
        f"{package} {theirs.get(package, 'missing')} (here {ours[package]})"
        for package in ("python", *PACKAGES)
        if theirs.get(package) != ours[package]
    ]
    if other:
        fatal = any(text.startswith(("python", "ray ", "rayscale")) for text in other)
        advice = "use one image, or one lock, on every node and here"
        yield Finding(
            f"versions: {name}", "failed" if fatal else "warning", ", ".join(other), advice
        )
    else:
        yield ok(f"versions: {name}", f"as here: rayscale {ours['rayscale']}, ray {ours['ray']}")
    yield judge_clock(f"clock: {name}", apart)
    yield from check_machine(facts, name)


def _hosts() -> list[str]:
    """The hosts that the environment names."""
    uris = [os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI")]
    hosts = [urlsplit(uri).hostname or "" for uri in uris]
    if ":" in (address := os.environ.get("RAY_ADDRESS", "").removeprefix("ray://")):
        hosts.append(address.rpartition(":")[0])
    return sorted({host for host in hosts if host})


def _reach(uri: str) -> str:
    """Why nobody answers at the host and port of a URI; "" where somebody does."""
    parts = urlsplit(uri)
    if not parts.hostname:
        return "" if parts.scheme in ("file", "sqlite") else f"{uri!r} names no host"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with (
            socket.create_connection((parts.hostname, port), timeout=_CONNECT_S),
            suppress(RayscaleError),
        ):
            return ""
    except OSError as error:
        return f"nothing answers at {parts.hostname}:{port} ({error})"
    return ""
