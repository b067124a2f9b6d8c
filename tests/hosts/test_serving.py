"""The service on hosts that are drained, stopped and upgraded under load: no request is lost."""

from __future__ import annotations

import io
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
import yaml
from infra.lab.hosts import Lab
from tests.plugins.hosts import HEAD, await_that

from rayscale.serving.deploy import CONFIG

REQUESTS, CLIENTS = 1000, 4
PAUSE_S = 0.05  # of each client after an answer: hosts start meanwhile, on the same cores
DEPLOY = """
import sys
from rayscale.serving.deploy import deploy
print("deployed at", deploy(sys.argv[1], host="0.0.0.0", model="bicubic"))
"""


class Balancer:
    """Clients behind a load balancer: it asks each host whether it is well, and tries another where nobody listens."""

    def __init__(self, hosts: dict[str, str], body: bytes) -> None:
        self.hosts, self._body = hosts, body
        self.answers: Counter[str] = Counter()
        self.well: set[str] = set(hosts)
        self._end = threading.Event()

    def __enter__(self) -> Balancer:
        self._pool = ThreadPoolExecutor(CLIENTS + len(self.hosts))
        self._work = [self._pool.submit(self._ask) for _ in range(CLIENTS)]
        self._work += [self._pool.submit(self._look, host) for host in self.hosts]
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for each in self._work:
            each.result()
        self._pool.shutdown()

    def _look(self, host: str) -> None:
        while not self._end.wait(0.2):
            try:
                answer = httpx.get(f"{self.hosts[host]}/-/healthz", timeout=2, trust_env=False)
                well = answer.status_code == 200
            except httpx.TransportError:
                well = False
            (self.well.add if well else self.well.discard)(host)

    def _ask(self) -> None:
        with httpx.Client(timeout=120, trust_env=False) as client:
            while not self._end.is_set():
                for host in random.sample(sorted(self.well), len(self.well)):
                    try:
                        answer = client.post(
                            f"{self.hosts[host]}/v1/upscale?model=bicubic", content=self._body
                        )
                    except httpx.ConnectError:  # nobody has seen it
                        continue
                    except httpx.TransportError as error:
                        self.answers[f"{type(error).__name__} of {host}"] += 1
                    else:
                        good = answer.status_code == 200
                        self.answers[
                            "200"
                            if good
                            else f"{answer.status_code} of {host}: {answer.text[:200]}"
                        ] += 1
                    break
                self._end.wait(PAUSE_S)


def has(lab: Lab, host: str, name: str) -> bool:
    """Whether a replica of the deployment, or a proxy, is on a host."""
    return any(name in title for title in lab.hosts[host].titles())


@pytest.fixture
def hosts(lab: Lab) -> Iterator[Lab]:
    """The lab with three hosts; after the test its head is alone again, and new: Serve holds its CPU."""
    for name in ("host-2", "host-3"):
        lab.add(name)
    yield lab
    for name in [name for name in lab.hosts if name not in (HEAD, "store")]:
        lab.pull(name)
    lab.join(HEAD)


def deploy(lab: Lab, host: str, config: dict[str, Any], log: str) -> None:
    path = lab.folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    # On a host that need not have a proxy: the address is that of the head, which has one.
    process = lab.start(host, [sys.executable, "-c", DEPLOY, str(path)], log)
    assert process.wait(240) == 0, (lab.folder / log).read_text()[-4000:]
    assert f"deployed at http://{lab.hosts[HEAD].address}:8000" in (lab.folder / log).read_text()


@pytest.mark.timeout(900)
def test_hosts_that_are_drained_stopped_and_upgraded_lose_no_request(hosts: Lab) -> None:
    """Two model replicas and two ingresses on three hosts; 1000 requests through the proxies of all of them."""
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "png")
    config = yaml.safe_load(CONFIG.read_text())
    upscaling = config["applications"][0]["deployments"][1]
    upscaling["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    deploy(hosts, "host-3", config, "deploy.log")
    places = {
        name: f"http://{hosts.hosts[name].address}:8000" for name in (HEAD, "host-2", "host-3")
    }
    log: Path = hosts.folder / "deploy.log"
    with Balancer(places, file.getvalue()) as balancer:
        await_that(lambda: balancer.answers["200"] > 50, log)
        first, second = ("host-2", "host-3")
        if not has(hosts, first, "Upscaling"):
            first, second = second, first
        hosts.notice(first, 300)
        await_that(
            lambda: first not in balancer.well and not has(hosts, first, "ServeReplica"), log
        )
        hosts.pull(first)
        assert set(balancer.answers) == {"200"}
        hosts.join(first)
        assert has(hosts, second, "Upscaling"), "the replica moved there"
        hosts.terminate(second)
        await_that(lambda: not has(hosts, second, "raylet"), log)
        hosts.pull(second)
        await_that(lambda: has(hosts, first, "Upscaling"), log)
        assert set(balancer.answers) == {"200"}
        upscaling["max_ongoing_requests"] = 5
        deploy(hosts, first, config, "upgrade.log")
        await_that(lambda: balancer.answers["200"] >= REQUESTS, log)
    assert set(balancer.answers) == {"200"}
