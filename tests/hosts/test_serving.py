"""The service on hosts that are drained, stopped and upgraded under load: no request is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from benchmarks.undisturbed import enlarged, make_images
from infra.lab.hosts import Lab
from infra.lab.service import Balancer, address, deploy
from tests.plugins.hosts import HEAD, await_that

from rayscale.serving.deploy import CONFIG

REQUESTS = 1000


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


@pytest.mark.timeout(900)
def test_hosts_that_are_drained_stopped_and_upgraded_lose_no_request(hosts: Lab) -> None:
    """Two model replicas and two ingresses on three hosts; 1000 requests through the proxies of all of them."""
    images = enlarged(make_images(1, 0, seed=1))
    config = yaml.safe_load(CONFIG.read_text())
    upscaling = config["applications"][0]["deployments"][1]
    upscaling["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    deploy(hosts, "host-3", config, "deploy.log")
    places = {name: address(hosts, name) for name in (HEAD, "host-2", "host-3")}
    log: Path = hosts.folder / "deploy.log"
    with Balancer(places, images) as balancer:
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
