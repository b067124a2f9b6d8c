"""What Ray tells a worker becomes the arguments of the training loop; no Ray runs here."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import torch

from rayscale import machine
from rayscale.training.config import load_config
from rayscale.training.ray import _work


@dataclass
class Outcome:
    run_id: str | None = None


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the loop got in the second of two workers of a machine with a quota of six CPUs."""
    found: dict[str, Any] = {}

    def train(_: object, **arguments: Any) -> Outcome:
        found.update(arguments)
        return Outcome()

    context = SimpleNamespace(
        get_world_rank=lambda: 1, get_world_size=lambda: 4, get_local_world_size=lambda: 2
    )
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(machine, "cpu_count", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: found.update(threads=n))
    monkeypatch.setattr("rayscale.training.loop.train", train)
    monkeypatch.setattr("rayscale.training.ray._Listener", lambda _: None)
    job = {"switch": None, "gpu": False, "verbose": False, "logger_factory": None, "generation": 3}
    config = load_config(None, ["data.uri=s3://b/d"]).model_dump(mode="json")
    _work({"config": config, **job})
    return found


def test_workers_of_a_machine_share_its_quota(told: dict[str, Any]) -> None:
    assert (told["rank"], told["world"], told["generation"], told["threads"]) == (1, 4, 3, 3)


def test_a_notice_of_ray_is_one_of_preemption(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    notice: list[object] = [None]
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: notice[0])
    assert not told["preempted"]()
    notice[0] = SimpleNamespace(deadline=1)
    assert told["preempted"]()
