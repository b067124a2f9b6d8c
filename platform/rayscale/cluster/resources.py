"""What the connected cluster has: who takes its GPUs, and whether there is room for what is asked."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from rayscale.errors import ConfigError, quantity

logger = logging.getLogger(__name__)


def wants_gpus(asked: str | bool, gpus: float, workers: int = 1) -> bool:
    """Whether work takes GPUs, one for each of ``workers``, on a cluster that has ``gpus``: the one rule.

    ``auto`` takes them where there are enough; ``cuda`` (or True) in any case, ``cpu`` (or False) never.
    """
    if asked == "auto":
        return gpus >= workers
    return asked in ("cuda", True)


def take_gpus(device: str) -> bool:
    """:func:`wants_gpus` of the connected cluster.

    A cluster that was joined may get its first one from its autoscaler: there ``cuda`` waits, and says so. Raises ConfigError
    for ``cuda`` on an embedded Ray without GPU.
    """
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    wanted = wants_gpus(device, gpus)
    if wanted and not gpus:
        if os.environ.get("RAY_ADDRESS") in (None, "", "local"):
            raise ConfigError(
                "device cuda: this machine has no GPU; use auto, or set RAY_ADDRESS to a cluster that has one"
            )
        logger.warning(
            "this cluster has no GPU yet; the work waits until its autoscaler adds one (device=auto does without)"
        )
    return wanted


def see_nodes() -> Any:
    """Let Ray Train and Ray Data see the nodes that are there now; a reference that is there when they do.

    Both plan with what one actor of the cluster knows, which by itself looks every 20 s (Ray 2.60): long for a node that
    joins, and a group of workers planned with a node that is lost waits for it until its time is over.
    """
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

    coordinator = get_or_create_autoscaling_coordinator()
    return coordinator.get_reserved_resources.remote("rayscale", recompute=True)


def check_room(count: int, need: Mapping[str, float], way_out: str, *, wait: bool = False) -> None:
    """Raise ConfigError unless the connected cluster has room for ``count`` processes that each reserve ``need``.

    What others hold at the moment counts as room: it will be free. With ``wait`` a missing place is said and nothing is
    raised: an autoscaler may add it. ``way_out`` ends the message.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = [
        min(int(node.get(name, 0.0) / each + 1e-6) for name, each in need.items() if each)
        for node in nodes
    ]
    if sum(places) >= count:
        return
    listed = "; ".join(_amounts({name: node.get(name, 0.0) for name in need}) for node in nodes)
    lacking = (
        f"{count} x {_amounts(need)} {'is' if count == 1 else 'are'} needed, but the cluster has "
        f"{quantity(len(nodes), 'node')} ({listed})"
    )
    if not wait:
        raise ConfigError(f"{lacking}; {way_out}")
    print(f"waiting: {lacking}", flush=True)


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
