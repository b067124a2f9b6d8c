"""What a run will take: counts against the configuration, memory and time against steps that were taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rayscale.cli import run
from rayscale.data.manifest import Manifest
from rayscale.errors import ConfigError
from rayscale.machine import joules
from rayscale.training import cost
from rayscale.training.config import TrainConfig
from rayscale.training.cost import estimate

Make = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_SECONDS", 0.2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


def test_counts_are_those_of_the_configuration(make_config: Make, small_world: Path) -> None:
    found = estimate(make_config("optimizer.steps=50", "workers.count=2"))
    assert (found.steps, found.samples, found.workers) == (50, 200, 2)
    assert found.epochs == 200 / Manifest.load(str(small_world / "dataset")).counts.sub_images
    files = [path.stat().st_size for path in (small_world / "dataset").rglob("*") if path.is_file()]
    assert 0 < found.read < sum(files)
    assert found.parameters == 9 * (3 * 8 + 5 * 64 + 8 * 32 + 8 * 3) + 8 + 5 * 8 + 32 + 3
    assert found.seconds > 0
    assert not Path(make_config().identified().uri).exists(), "nothing is written"


@pytest.mark.parametrize(
    "system",
    [
        ["model.name=mdsr-baseline", "model.scales=[2, 4]"],
        ["model.name=vdsr", "model.scales=[2, 4]", "data.mixed=true"],
        ["model.name=srgan", "model.scale=2", "adversarial.content=l1"],
    ],
    ids=["scales", "mixed", "gan"],
)
def test_every_kind_of_step_is_calibrated(make_config: Make, system: list[str]) -> None:
    assert estimate(make_config(*system)).seconds > 0


@pytest.mark.slow
def test_memory_grows_with_the_patches_and_falls_with_micro_batches(make_config: Make) -> None:
    """The activations of 64 patches of 48 x 48 in 8 x 64 feature maps, in float32, kept once at least for each layer."""
    # Of an earlier life of the process: freed, but not to the system, as small blocks that are kept lie between.
    for _ in range(2):  # glibc takes from the heap what it has once freed to the system
        earlier = [torch.ones(1 << (12 if n % 2 else 22)) for n in range(160)]
        kept = earlier[1::2]
        del earlier
    wide = ("model.filters=64", "model.blocks=8", "data.patch=48")
    large = estimate(make_config(*wide, "data.batch=64")).memory
    layers = 16 * 64 * 48 * 48 * 4 * 64
    base = estimate(make_config(*wide, "data.batch=1")).memory
    assert 0.8 * layers < large - base < 4 * layers
    parts = estimate(make_config(*wide, "data.batch=64", "workers.gradient_accumulation=8")).memory
    assert parts - base < 0.3 * (large - base)
    del kept


def test_what_cannot_fit_is_refused_before_it_is_tried(
    make_config: Make, capsys: pytest.CaptureFixture[str], small_world: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"needs [\d.]+ GiB for 1000000 patches of 12 at once.*gradient_acc"
    ):
        estimate(make_config("data.batch=1000000"))
    options = ["--set", f"data.uri={small_world / 'dataset'}", "--set", "data.patch=12"]
    assert run("train", "--dry-run", *options, "--set", "data.batch=10000000") == 2
    assert "are free for it. Use more workers" in capsys.readouterr().err


def test_the_command_prints_the_plan(small_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        f"data.uri={small_world / 'dataset'}",
        "model.blocks=1",
        "model.filters=4",
        "data.patch=12",
    ]
    words = [word for option in options for word in ("--set", option)]
    assert run("train", "--dry-run", *words) == 0
    out = capsys.readouterr().out
    rows = {line.split("  ")[0] for line in out.splitlines()}
    assert {"steps", "samples", "read", "memory", "time", "energy", "measured on"} <= rows
    assert "4800000 patches" in out
    assert not (small_world / "runs").exists()
    assert run("train", "--dry-run", "--system", "aplus") == 2


def test_energy_is_that_of_the_packages(tmp_path: Path) -> None:
    assert joules(tmp_path) is None
    for name, value in (
        ("intel-rapl:0", 2_000_000),
        ("intel-rapl:1", 500_000),
        ("intel-rapl:0:0", 9),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    assert joules(tmp_path) == 2.5
