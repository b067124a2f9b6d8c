"""Workers that come and go: what Ray Train's controller does besides, so that it sees its cluster and loses no step."""

from __future__ import annotations

import math
import time
from typing import Any

_LONGEST_S = 600.0  # for a step and a checkpoint


def follow_cluster(switch: Any, every_s: float) -> Any:
    """A callback of Ray Train's controller; ``switch`` is that of ``rayscale.training.ray``.

    The nodes of the cluster are looked at every ``every_s`` seconds. A group of workers that ends because another size
    fits better, or at the end of a notice, saves a checkpoint first; Ray Train (2.60) would kill it wherever it is. A group
    that ends because a worker was lost is not waited for: it has nothing to save any longer.
    """
    import ray
    from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
    from ray.train.v2._internal.execution.controller.state import (
        PreemptingState,
        ResizingState,
        RestartingState,
    )

    from rayscale import cluster

    class Following(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self._planned = False
            self._group: Any = None
            self._looked = -math.inf

        def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
            if isinstance(current_state, ResizingState):
                self._planned = True
            elif isinstance(
                current_state, RestartingState
            ):  # after a notice, a host is often still there
                self._planned = isinstance(previous_state, PreemptingState)

        def after_worker_group_training_start(self, worker_group: Any) -> None:
            self._group = worker_group

        def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
            if time.monotonic() > self._looked + every_s:
                self._looked = time.monotonic()
                cluster.see_nodes()

        def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
            planned, self._planned = self._planned, False
            if not planned or self._group is None:
                return
            ray.get(switch.pause.remote())
            end = time.monotonic() + _LONGEST_S
            while time.monotonic() < end:
                status = self._group.poll_status(timeout=1.0)
                if status.finished or status.errors:
                    break
                time.sleep(0.1)
            ray.get(switch.resume.remote())

    return Following()
