"""The same question to every node of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

NODE_S = 60.0
"""For a node to answer."""


def ask_nodes(
    question: Callable[..., dict[str, Any]], *arguments: Any
) -> Iterator[tuple[str, dict[str, Any] | str, float]]:
    """Of every node of the cluster of RAY_ADDRESS that is alive: its address, what it answers, and how far its clock is off.

    An answer is a text where the node failed to give one. The clock is compared where an answer has a ``clock`` (seconds since
    1970): its distance from ours at least, in seconds.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from rayscale import cluster

    cluster.connect()
    task = ray.remote(num_cpus=0, max_retries=0)(question)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            pending = task.options(scheduling_strategy=there).remote(*arguments)
            asked[pending] = (node["NodeManagerAddress"], time.time())
    waiting, end = list(asked), time.monotonic() + NODE_S
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=max(0.0, end - time.monotonic()))
        if not ready:
            break
        after = time.time()
        (name, before), answer = asked[ready[0]], _answer(ready[0])
        clock = answer.get("clock", after) if isinstance(answer, dict) else after
        yield name, answer, max(0.0, before - clock, clock - after)
    for late in waiting:
        yield asked[late][0], f"no answer within {NODE_S:g} s", 0.0


def _answer(pending: Any) -> dict[str, Any] | str:
    import ray

    try:
        answer: dict[str, Any] = ray.get(pending)
    except (ray.exceptions.RayError, ImportError) as error:
        return str(error).strip().splitlines()[-1]
    return answer
