"""The actors of a batch on the Ray of the tests."""

from __future__ import annotations

import os
import signal


def kill_actors(name: str) -> list[int]:
    """SIGKILL for all that live of a class; their processes."""
    from ray.util.state import list_actors

    alive = list_actors(filters=[("state", "=", "ALIVE")])
    pids = [actor.pid for actor in alive if name in actor.class_name]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids
