from __future__ import annotations

import pytest

from rayscale import cluster
from rayscale.errors import ConfigError


@pytest.mark.parametrize(
    ("gpus", "device", "address", "takes"),
    [
        (2, "auto", "", True), (2, "cuda", "", True), (2, "cpu", "", False), (0, "auto", "", False),
        (0, "cpu", "", False), (0, "cuda", "head:6379", True),
    ],
)  # fmt: skip
def test_who_asks_for_gpus(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gpus: int, device: str, address: str, takes: bool
) -> None:  # fmt: skip
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": float(gpus)})
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster.take_gpus(device) is takes
    assert ("until its autoscaler adds one" in caplog.text) is (takes and not gpus)


def test_what_the_cluster_has_no_room_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Places are counted node by node; what others hold will be free; a node that is gone has none."""
    import ray

    small, large = {"CPU": 2.0, "memory": 1e9}, {"CPU": 16.0, "GPU": 2.0}
    nodes = [{"Alive": True, "Resources": small}, {"Alive": True, "Resources": large}]
    nodes.append({"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}})
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    cluster.check_room(2, {"CPU": 1.0, "GPU": 1.0}, "")
    cluster.check_room(18, {"CPU": 1.0}, "")
    with pytest.raises(ConfigError, match=r"3 x 1 CPU and 1 GPU are needed, but the cluster has 2 nodes "
                       r"\(2 CPU and 0 GPU; 16 CPU and 2 GPU\); take fewer"):  # fmt: skip
        cluster.check_room(3, {"CPU": 1.0, "GPU": 1.0}, "take fewer")
    with pytest.raises(ConfigError, match="1 x 17 CPU is needed"):  # 18 in all, on no node
        cluster.check_room(1, {"CPU": 17.0}, "take fewer")
    cluster.check_room(1, {"CPU": 17.0}, "take fewer", wait=True)
    assert capsys.readouterr().out.startswith("waiting: 1 x 17 CPU is needed, but the cluster has")


def test_cuda_needs_a_gpu_where_none_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="this machine has no GPU"):
        cluster.take_gpus("cuda")


@pytest.mark.parametrize(
    ("asked", "gpus", "workers", "wants"),
    [
        ("auto", 2, 2, True), ("auto", 1, 2, False), (True, 0, 1, True), (False, 8, 1, False),
        ("cuda", 0, 1, True), ("cpu", 8, 1, False),
    ],
)  # fmt: skip
def test_one_rule_says_who_takes_gpus(
    asked: str | bool, gpus: int, workers: int, wants: bool
) -> None:
    assert cluster.wants_gpus(asked, gpus, workers) is wants
