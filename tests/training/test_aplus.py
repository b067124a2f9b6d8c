"""A whole training of A+ on the waves and discs of ``small_world``: seconds, and better than bicubic."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rayscale.errors import ConfigError, InputError
from rayscale.evaluation import evaluate, read_pairs
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.models.weights import load_model
from rayscale.options import Options
from rayscale.storage.lease import BusyError
from rayscale.training import task
from rayscale.training.aplus import APlusConfig, train
from rayscale.training.run import lease_of, read_result

Make = Callable[..., APlusConfig]


@pytest.fixture
def make(small_world: Path, tmp_path: Path) -> Make:
    """``make("model.atoms=8", ...)``: 24 atoms, 12 features, two sizes of the images, 20 000 samples."""

    def make(*overrides: str) -> APlusConfig:
        return APlusConfig.load(
            None,
            [
                f"data.uri={small_world / 'dataset'}",
                f"run.uri={tmp_path / 'runs'}",
                f"validation.uri={small_world / 'validation'}",
                "model.atoms=24",
                "model.features=12",
                "data.samples=20000",
                "data.sizes=2",
                "dictionary.samples=2000",
                "dictionary.iterations=3",
                "regressors.neighbours=300",
                *overrides,
            ],
        )

    return make


def test_a_task_without_its_cpus_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    monkeypatch.setattr(ray, "remote", lambda _: pytest.fail("it began"))
    with pytest.raises(ConfigError, match=r"1 x 9 CPU is needed.*lower workers.cpus"):
        task.fit(make("workers.cpus=9"))


def test_the_defaults_are_the_papers():
    config = APlusConfig()
    assert (config.samples, config.data.sizes, config.data.shrink) == (5_000_000, 12, 0.98)
    assert (config.dictionary.sparsity, config.dictionary.iterations) == (3, 20)
    assert (config.regressors.neighbours, config.regressors.ridge) == (2048, 0.1)
    assert APlusConfig.load(None, ["recipe=short"]).samples == 500_000
    assert config.spec == create_model("aplus", scale=2).spec
    with pytest.raises(ConfigError, match=r"did you mean data\.samples"):
        APlusConfig.load(None, ["data.sample=3"])


def test_it_beats_bicubic_and_writes_what_it_says(make, memory, small_world):
    lines: list[str] = []
    result = train(make(), metrics=memory, say=lines.append)
    assert result == read_result(result.uri)
    assert result.complete
    assert result.name.startswith("aplus-x2-")
    assert result.metrics["samples"] == pytest.approx(20_000, rel=0.01)
    assert any("dictionary 3/3" in line for line in lines)
    assert memory.params["dictionary.sparsity"] == 3
    assert memory.points[-1][1]["edsr-paper-y/psnr"] == result.metrics["psnr"]

    model = load_model(result.weights)
    assert model.spec == make().spec

    def psnr(network: torch.nn.Module) -> float:
        upscaler = Upscaler(network, Options(scale=2, precision="float32"), device="cpu")
        return evaluate(upscaler, read_pairs(str(small_world / "validation"), 2)).psnr

    learned = psnr(model)
    assert learned == pytest.approx(result.metrics["psnr"], abs=0.01)  # rounded to half precision
    assert learned > psnr(create_model("bicubic")) + 0.5


def test_the_same_seed_gives_the_same_bytes_another_does_not(make):
    digests = [
        train(make(f"run.name=run-{index}", f"run.seed={seed}", "model.storage=float32")).sha256
        for index, seed in enumerate([1, 1, 2])
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_complete_run_is_not_trained_again_and_not_replaced(make):
    first = train(make("run.name=only"))
    lines: list[str] = []
    assert train(make("run.name=only", "workers.threads=1"), say=lines.append) == first
    assert not lines
    with pytest.raises(ConfigError, match="another configuration"):
        train(make("run.name=only", "model.atoms=8"))


def test_a_complete_run_is_scored_on_the_benchmark_of_today(make, small_world, tmp_path):
    first = train(make())
    shutil.copytree(small_world / "validation", tmp_path / "moved")
    assert train(make(f"validation.uri={tmp_path / 'moved'}")) == first
    one = [f"{tmp_path / 'moved'}/{kind}/101_{kind}.png" for kind in ("HR", "LR")]
    for path in one:
        Path(path).unlink()
    lines: list[str] = []
    again = train(make(f"validation.uri={tmp_path / 'moved'}"), say=lines.append)
    assert [line for line in lines if "scoring it on" in line] == lines
    upscaler = Upscaler(
        load_model(again.weights), Options(scale=2, precision="float32"), device="cpu"
    )
    report = evaluate(upscaler, read_pairs(tmp_path / "moved", 2))
    assert again.metrics["psnr"] == pytest.approx(report.psnr, abs=1e-6)
    assert again.benchmark["digests"] == {"x2": report.benchmark}
    assert again.metrics["psnr"] != first.metrics["psnr"]
    assert (again.sha256, again.history[:-1]) == (first.sha256, first.history)
    assert read_result(again.uri) == again
    with lease_of(again.uri), pytest.raises(BusyError):
        train(make())


@pytest.mark.slow
def test_a_second_start_is_refused(make):
    refused = []

    def start_again(line):
        if not refused:
            for fresh in (False, True):
                with pytest.raises(BusyError, match=f"process {os.getpid()}") as caught:
                    train(make("run.name=twice"), fresh=fresh)
                refused.append(caught.value)

    result = train(make("run.name=twice"), say=start_again)
    assert len(refused) == 2
    assert train(make("run.name=twice")) == result
    assert train(make("run.name=twice"), fresh=True).metrics["seconds"] != result.metrics["seconds"]


def test_too_little_data_says_so(make):
    with pytest.raises(InputError, match="fewer than the 30000 neighbours"):
        train(make("regressors.neighbours=30000"))
    with pytest.raises(ConfigError, match=r"data\.uri"):
        train(APlusConfig())
