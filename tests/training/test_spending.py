"""What a run has taken: counted by hand, over several workers and processes.

``python test_spending.py FOLDER RANK WORLD shared lacking`` is a worker of ``Worlds``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.training.world import Worlds, main

from rayscale.data import Batch
from rayscale.machine import Energy
from rayscale.training import spending
from rayscale.training.config import TrainConfig
from rayscale.training.loop import train
from rayscale.training.run import describe
from rayscale.training.spending import Spending, Spent

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")


def count(root: Path, **microjoules: int) -> Path:
    """Counters as Linux has them, which are full at 10 J; a package has parts, which must not count twice."""
    for name, value in microjoules.items():
        folder = root / f"intel-rapl:{name[1:].replace('_', ':')}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "energy_uj").write_text(f"{value}\n")
        (folder / "max_energy_range_uj").write_text("10000000\n")
    return root


def test_energy_goes_on_where_a_counter_begins_again(tmp_path: Path) -> None:
    energy = Energy(count(tmp_path, p0=9_000_000, p1=500_000, p0_0=1))
    assert energy.read() == 0
    count(tmp_path, p0=9_500_000, p1=1_500_000, p0_0=999_999)
    assert energy.read() == 1.5
    count(tmp_path, p0=500_000)  # full at 10 J
    assert energy.read() == 2.5
    count(tmp_path, p0=400_000)
    assert energy.read() == pytest.approx(12.4)


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert Energy(tmp_path).read() is None
    energy = Energy(count(tmp_path, p0=1))
    (tmp_path / "intel-rapl:0/energy_uj").unlink()
    assert energy.read() is None
    spending = Spending(1, CPU, 1, energy)
    spending.settle()
    assert spending.spent.joules is None
    assert "joules" not in spending.spent.figures()


def test_patches_and_joules_are_added_up(tmp_path: Path) -> None:
    count(tmp_path, p0=0)
    spending = Spending(1, CPU, 1, Energy(tmp_path))
    spending.load({"work_seconds": 10.0, "megapixels": 1.0, "patch_bytes": 100.0, "joules": 5.0})
    lr, hr = (
        torch.zeros(2, 3, 10, 20, dtype=torch.uint8),
        torch.zeros(2, 3, 20, 40).to(torch.uint16),
    )
    for _ in range(3):
        spending.add(Batch(lr, hr, 2))
    count(tmp_path, p0=3_000_000)
    spending.settle()
    spending.settle()  # nothing new but time
    found = spending.spent
    assert found.work_seconds > 10
    assert found.megapixels == pytest.approx(1 + 3 * 2 * 200 / 1e6)
    assert found.patch_bytes == 100 + 3 * (2 * 3 * 200 + 2 * 3 * 800 * 2)
    assert found.joules == 8.0
    assert Spent(**spending.state()) == found


def _take(folder: Path, rank: int, world: int, *, counted: bool) -> None:
    """Each of two workers of one machine takes a step of 200 pixels, while the machine takes 4 J."""
    own = folder / str(rank)
    if counted:
        count(own, p0=0)
    spending = Spending(world, CPU, world, Energy(own))
    spending.add(Batch(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 20, 40), 2))
    if counted:
        count(own, p0=4_000_000)
    spending.settle()
    torch.save(spending.state(), folder / f"{world}-{rank}.pt")


def shared(folder: Path, rank: int, world: int) -> None:
    _take(folder, rank, world, counted=True)


def lacking(folder: Path, rank: int, world: int) -> None:
    _take(folder, rank, world, counted=rank == 0)


KINDS = {"shared": shared, "lacking": lacking}


@pytest.mark.slow
def test_workers_of_a_machine_share_its_joules(tmp_path: Path, checkout: Path) -> None:
    worlds = Worlds(tmp_path, checkout, "test_spending.py", KINDS)
    for found in worlds.two("shared"):
        assert found["joules"] == 4.0
        assert found["megapixels"] == pytest.approx(400 / 1e6)
        assert found["patch_bytes"] == 2 * 4 * 3 * (200 + 800)
    for found in worlds.two("lacking"):  # one unknown makes the sum unknown, on every worker
        assert found["joules"] is None
        assert found["megapixels"] == pytest.approx(400 / 1e6)


def test_a_run_says_what_it_took_also_when_it_was_stopped(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count(tmp_path / "powercap", p0=1_000_000)
    energy: list[Energy] = []

    def counters() -> Energy:
        energy.append(Energy(tmp_path / "powercap"))
        return energy[-1]

    monkeypatch.setattr(spending, "Energy", counters)
    config = make_config("optimizer.steps=8", "logging.every=3", "checkpoint.every=4")
    asked: list[int] = []

    def stop() -> bool:
        asked.append(0)
        count(tmp_path / "powercap", p0=1_000_000 * (1 + len(asked)))
        return len(asked) == 5

    first = train(config, device="cpu", stop=stop)
    assert not first.complete
    result = train(config, device="cpu", stop=lambda: False)
    assert result.complete
    assert len(energy) == 2
    pixels = config.data.batch * config.data.patch**2
    (scale,), steps = config.model.drawn, 8
    for each, done in ((first, first.steps), (result, steps)):
        assert each.metrics["megapixels"] == pytest.approx(done * pixels / 1e6)
        assert each.metrics["patch_bytes"] == done * pixels * 3 * (1 + scale**2)
    assert first.metrics["joules"] == len(asked)
    assert result.metrics["joules"] == len(asked)  # the counter stood still
    assert result.metrics["work_seconds"] > first.metrics["work_seconds"] > 0
    stored = json.loads(Path(result.uri, "result.json").read_text())
    assert stored["metrics"]["joules"] == len(asked)
    assert f", {len(asked)} J" in describe(result)["cost"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:], kinds=KINDS)
