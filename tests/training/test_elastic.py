"""A group of workers that makes room for another saves its last step first; no Ray runs here, but its states are Ray's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.train.v2._internal.execution.controller.state import (
    PreemptingState,
    ResizingState,
    RestartingState,
    RunningState,
    TrainControllerState,
)

from rayscale import cluster
from rayscale.training.config import TrainConfig
from rayscale.training.elastic import follow_cluster
from rayscale.training.loop import train
from rayscale.training.ray import Switch
from rayscale.training.run import Run

Make = Callable[..., TrainConfig]

STATES: dict[str, TrainControllerState] = {
    "running": RunningState(),
    "resizing": ResizingState(scaling_decision=None),
    "preempting": PreemptingState(preemption_info=None, detected_at_s=0.0),
    "restarting": RestartingState(training_failed_error=None),
}


class Local:
    """The actor without its process: a call is done at once, in an event loop of the test's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.switch, self.calls = Switch(), list[str]()
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        def call() -> Any:
            self.calls.append(name)
            return asyncio.run_coroutine_threadsafe(getattr(self.switch, name)(), self._loop)

        return SimpleNamespace(remote=call)


class Group:
    """One worker, in a thread."""

    def __init__(self, config: TrainConfig, switch: Local) -> None:
        self.steps: list[int] = []
        self.error: Exception | None = None
        self._stopped = switch.stopped.remote()
        self._thread = threading.Thread(target=self._work, args=(config,), daemon=True)
        self._thread.start()

    def _work(self, config: TrainConfig) -> None:
        try:
            self.result = train(config, device="cpu", metrics=self, stop=self._stopped.done)  # type: ignore[arg-type]
        except Exception as error:
            self.error = error

    def log_metrics(self, _: object, step: int) -> None:
        self.steps.append(step)

    def log_image(self, name: str, pixels: object, step: int) -> None: ...

    def log_params(self, params: object) -> None: ...

    def poll_status(self, timeout: float) -> Any:
        self._thread.join(timeout)
        return SimpleNamespace(finished=not self._thread.is_alive(), errors={})

    def join(self) -> list[int]:
        self._thread.join()
        assert self.error is None
        return self.steps


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Local]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(ray, "get", lambda reference: reference.result(30))
    yield Local(loop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize("path", [("running", "resizing"), ("preempting", "restarting")])
def test_a_planned_change_costs_no_step(
    make_config: Make, switch: Local, path: tuple[str, str]
) -> None:
    """Hosts join, or the time of a notice is over: the next group begins with the step after the last one of this."""
    keys = ["optimizer.steps=100000", "checkpoint.every=100000", "logging.every=1"]
    config = make_config("run.name=planned", *keys).identified()
    following, first = follow_cluster(switch, 60.0), Group(config, switch)
    following.after_worker_group_training_start(first)
    while not first.steps:
        assert not first.poll_status(0.01).finished, first.error
    following.after_controller_state_update(*(STATES[name] for name in path))
    following.before_controller_execute_resize_decision(None)
    made = first.join()
    assert Run(config).checkpoints.steps() == [made[-1]]

    second = Group(config, switch)
    following.after_worker_group_training_start(second)
    while not second.steps:
        assert not second.poll_status(0.01).finished, "the switch is on again"
    switch.stop.remote()  # Ctrl-C
    assert second.join()[0] == made[-1] + 1


def test_a_lost_group_is_not_waited_for(switch: Local) -> None:
    """It has nothing to save: only what Ray planned, or a notice announced, turns the switch."""
    following = follow_cluster(switch, 60.0)
    following.before_controller_execute_resize_decision(None)  # the first group
    group = SimpleNamespace(poll_status=lambda timeout: pytest.fail("waited"))
    following.after_worker_group_training_start(group)
    following.after_controller_state_update(STATES["running"], STATES["restarting"])
    following.before_controller_execute_resize_decision(None)
    assert switch.calls == []
    # A resize that ends in a loss is one: the worker tells what it has, and nobody waits longer.
    lost = SimpleNamespace(
        poll_status=lambda timeout: SimpleNamespace(finished=False, errors={0: 1})
    )
    following.after_worker_group_training_start(lost)
    following.after_controller_state_update(STATES["running"], STATES["resizing"])
    following.before_controller_execute_resize_decision(None)
    following.before_controller_execute_resize_decision(None)  # of the next group: not planned
    assert switch.calls == ["pause", "resume"]


def test_a_stop_is_not_undone_by_a_change(switch: Local) -> None:
    """Ctrl-C while the group makes room: the next one ends at once as well."""
    done = SimpleNamespace(poll_status=lambda timeout: SimpleNamespace(finished=True, errors={}))
    following = follow_cluster(switch, 60.0)
    following.after_worker_group_training_start(done)
    switch.stop.remote().result(30)
    following.after_controller_state_update(STATES["running"], STATES["resizing"])
    following.before_controller_execute_resize_decision(None)
    assert switch.stopped.remote().result(30) is None


def test_the_cluster_is_looked_at_no_more_often_than_asked(
    switch: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(cluster, "see_nodes", lambda: looks.append(1))
    for every_s, expected in ((1e6, 1), (0.0, 3)):
        looks.clear()
        following = follow_cluster(switch, every_s)
        for _ in range(3):
            following.after_worker_group_poll_status(None)
        assert len(looks) == expected
