"""The HTTP service on a lab, and clients of it that keep a record of every request."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import yaml
from infra.lab.hosts import Lab
from infra.lab.namespaces import LabError

from rayscale.serving import front

# Of every node: the proxies end 5 s after the last request, not 30.
VARIABLES = front.ENVIRONMENT | {"RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "5"}
PORT = 8000
_DEPLOY = """
import sys
from rayscale.serving.deploy import deploy
print("deployed at", deploy(sys.argv[1], host="0.0.0.0", model="bicubic"))
"""
_DEPLOY_S = 240
_PATIENCE_S = 300.0  # for what is asked when the clients are to end
_AGAIN_S = 1.0
_ANSWER_S = 120.0  # longer than the service takes to say that it takes too long
_CONNECT_S = 5.0


def deploy(lab: Lab, host: str, config: Mapping[str, Any], log: str) -> None:
    """Deploy from a host, which need not have a proxy: the address is that of the head, which has one."""
    path = lab.folder / "serve.yaml"
    path.write_text(yaml.safe_dump(dict(config)))
    code = lab.start(host, [sys.executable, "-c", _DEPLOY, str(path)], log).wait(_DEPLOY_S)
    said = (lab.folder / log).read_text()
    if code or f"deployed at {address(lab, lab.head)}" not in said:
        raise LabError(f"the service was not deployed:\n{said[-4000:]}")


def address(lab: Lab, host: str) -> str:
    """Where the proxy of a host listens."""
    return f"http://{lab.addresses[host]}:{PORT}"


def replicas(lab: Lab, deployment: str = "") -> list[psutil.Process]:
    """The processes of this deployment, or of all, on all hosts."""
    return lab.find(f"ServeReplica:rayscale:{deployment}")


@dataclass(frozen=True)
class Attempt:
    """A request that was sent to a host.

    Attributes:
        begun, ended: by ``time.monotonic``.
        status: of the answer; 0 where there is none.
        right: whether it is the answer that it must be. again: whether it says when to come again.
        said: the beginning of an answer that is not right, or how the connection ended.
        heard: whether the host took the connection.
    """

    host: str
    begun: float
    ended: float
    status: int = 0
    right: bool = False
    again: bool = False
    said: str = ""
    heard: bool = True

    @property
    def outcome(self) -> str:
        """``200`` where all is well, else a line that says what happened."""
        return "200" if self.right else f"{self.status or 'nothing'} of {self.host}: {self.said}"


class Balancer:
    """Clients behind a load balancer, which asks each host whether it is well; use it in a ``with`` statement.

    A request is sent again, to any host, until it is answered by the right bytes.

    Args:
        hosts: addresses of proxies by name.
        images: bodies, and the bytes that each must become.
        pause_s: of each client after an answer.
        keep: whether clients keep their connections for the next request. One that was kept while its host
            lost its power breaks off at a request that comes when the host is well again.
    """

    def __init__(
        self,
        hosts: Mapping[str, str],
        images: Mapping[bytes, bytes],
        *,
        clients: int = 4,
        pause_s: float = 0.05,
        keep: bool = True,
    ) -> None:
        self.hosts, self.well = hosts, set(hosts)
        self.requests: list[list[Attempt]] = []
        """Each is what was tried for it; the last attempt is the right answer, if there was one."""
        self._images, self._clients, self._pause_s = images, clients, pause_s
        self._limits = httpx.Limits(max_keepalive_connections=None if keep else 0)
        self._end = threading.Event()
        self._last = 0.0

    def __enter__(self) -> Balancer:
        self._pool = ThreadPoolExecutor(self._clients + len(self.hosts))
        self._asking = [self._pool.submit(self._ask, seed) for seed in range(self._clients)]
        self._gone = threading.Event()
        self._looking = [self._pool.submit(self._look, host) for host in self.hosts]
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._last = time.monotonic() + (0 if kind else _PATIENCE_S)
        self._end.set()
        try:
            for each in self._asking:
                each.result()
        finally:
            self._gone.set()
            self._pool.shutdown()

    @property
    def answers(self) -> Counter[str]:
        """Outcomes of what was heard."""
        tries = [attempt for request in list(self.requests) for attempt in list(request)]
        return Counter(attempt.outcome for attempt in tries if attempt.heard)

    def _look(self, host: str) -> None:
        with httpx.Client(
            timeout=2, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        ) as client:
            while not self._gone.wait(0.2):
                try:
                    well = client.get(f"{self.hosts[host]}/-/healthz").status_code == 200
                except httpx.TransportError:
                    well = False
                (self.well.add if well else self.well.discard)(host)

    def _ask(self, seed: int) -> None:
        rng = random.Random(seed)
        timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
        with httpx.Client(timeout=timeout, trust_env=False, limits=self._limits) as client:
            while not self._end.wait(self._pause_s):
                request: list[Attempt] = []
                self.requests.append(request)
                body = rng.choice(list(self._images))
                while not (request and request[-1].right):
                    if self._end.is_set() and time.monotonic() > self._last:
                        return
                    well = sorted(self.well)
                    if well:
                        request.append(self._send(client, rng.choice(well), body))
                    if not (well and (request[-1].right or not request[-1].heard)):
                        time.sleep(_AGAIN_S)

    def _send(self, client: httpx.Client, host: str, body: bytes) -> Attempt:
        begun = time.monotonic()
        try:
            answer = client.post(f"{self.hosts[host]}/v1/upscale?model=bicubic", content=body)
        except httpx.TransportError as error:
            heard = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            said = f"{type(error).__name__} {error}".strip()
            return Attempt(host, begun, time.monotonic(), said=said, heard=heard)
        right = answer.status_code == 200 and answer.content == self._images[body]
        said = answer.text[:200] if answer.status_code != 200 else "not the right bytes"
        again = "Retry-After" in answer.headers
        return Attempt(
            host, begun, time.monotonic(), answer.status_code, right, again, "" if right else said
        )
