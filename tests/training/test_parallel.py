"""Ways to hold and compute a network: each ends where the plain loop of one process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import spread
from tests.training.spread import KINDS, STEPS, WAYS, make, step
from tests.training.world import Worlds

from rayscale.data import Batch
from rayscale.errors import ConfigError
from rayscale.models.systems import create_model
from rayscale.training.config import load_config
from rayscale.training.parallel import blocks_of
from rayscale.training.step import Trainer


@pytest.fixture(scope="session")
def spreads(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    checkout = Path(__file__).resolve().parents[2]
    return Worlds(tmp_path_factory.mktemp("spread"), checkout, "spread.py", KINDS)


def close(a: Any, b: Any, tolerance: float = 2e-5) -> None:
    """Nested values that are equal to the rounding of float32 sums."""
    if isinstance(a, torch.Tensor):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            close(a[key], b[key], tolerance)
    elif isinstance(a, list):
        assert len(a) == len(b)
        for pair in zip(a, b, strict=True):
            close(*pair, tolerance)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=tolerance)
    else:
        assert a == b


@pytest.mark.slow
def test_every_way_takes_the_steps_of_one_process(spreads: Worlds) -> None:
    """DDP, FSDP2, micro-batches and recomputed activations: losses, weights, moments and running mean."""
    alone = spreads.one("ways", KINDS)["ddp"]
    assert len(alone["losses"]) == STEPS
    for worker in spreads.two("ways"):
        assert worker.keys() == WAYS.keys()
        for found in worker.values():
            close(found, alone)


def test_a_network_of_several_scales_is_sharded_too(spreads: Worlds) -> None:
    alone = spreads.one("scales", KINDS)["ddp"]
    for worker in spreads.two("scales"):
        for found in worker.values():
            close(found, alone)


def test_checkpoints_go_from_any_way_to_any_other(spreads: Worlds) -> None:
    """FSDP, then DDP, then FSDP with everything, and at last one process: the curve of one process throughout."""
    trainer = make(0, 1)
    losses = [step(trainer, seed) for seed in range(STEPS)]
    for worker in spreads.two("carried"):
        close(worker.pop("losses"), losses)
        close(worker, trainer.state())
        last = make(0, 1)
        last.load(worker)
        assert last.step == STEPS
    expected = step(trainer, STEPS)
    assert step(last, STEPS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_edsr_of_the_width_of_the_paper_is_sharded(tmp_path: Path, checkout: Path) -> None:
    """Reason for its time: 256 filters, seven million weights."""
    worlds = Worlds(tmp_path, checkout, "spread.py", {"wide": spread.wide})
    for worker in worlds.two("wide"):
        close(worker["fsdp"]["losses"], worker["ddp"]["losses"], 1e-4)
        assert worker["fsdp"]["held"] < 0.51 * worker["ddp"]["held"]


@pytest.mark.parametrize("parts", [2, 3, 4, 6])
def test_micro_batches_have_the_gradient_of_the_whole(parts: int) -> None:
    """Uneven parts too: six patches in four micro-batches are 2, 2, 1 and 1."""
    whole = make(0, 1)
    small = make(0, 1, f"workers.gradient_accumulation={parts}")
    assert step(small, 1) == pytest.approx(step(whole, 1), rel=1e-6)
    for a, b in zip(small.model.parameters(), whole.model.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        close(a.grad, b.grad, 1e-6)


@pytest.mark.parametrize("system", ["edsr-baseline", "srresnet", "vdsr", "meta-srgan"])
def test_recomputed_activations_change_no_bit(system: str) -> None:
    """Gradients, weights and the running statistics of batch normalisation, which see each batch once."""

    def run(*overrides: str) -> Trainer:
        options = [f"model.name={system}", "precision=float32", "data.batch=6", *overrides]
        options += ["adversarial.weight=0"]
        torch.manual_seed(0)
        scale = 2 if system in ("edsr-baseline", "srresnet") else None
        model = create_model(system, scale=scale, blocks=3, filters=8)
        trainer = Trainer(load_config(None, options), model, peak=255)
        lr, hr = spread.patches(1)
        for _ in range(2):
            trainer.advance(Batch(lr[:, : model.channels], hr[:, : model.channels], 2))
        return trainer

    plain, again = run(), run("workers.activation_checkpointing=true")
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.live.values(), again.live.values(), strict=True)
    )  # fmt: skip


def test_recomputing_keeps_the_inputs_of_blocks_only() -> None:
    """Counted: the bytes that autograd keeps for the backward pass."""

    def kept(*overrides: str) -> int:
        trainer = make(0, 1, *overrides, blocks=8)
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        lr, _ = spread.patches(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trainer.parallel(lr.float(), 2)
        return total

    assert kept("workers.activation_checkpointing=true") < 0.5 * kept()


def test_the_blocks_of_a_network_are_found() -> None:
    assert len(blocks_of(create_model("edsr-baseline", scale=2, blocks=5))) == 5 + 1
    assert len(blocks_of(create_model("mdsr-baseline", blocks=4))) == 4 + 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layouts_agree(precision: str) -> None:
    options = (f"precision={precision}",)
    rows = make(0, 1, *options, "workers.channels_last=false")
    found, expected = step(rows, 1), step(make(0, 1, *options), 1)
    assert found == pytest.approx(expected, rel=1e-5 if precision == "float32" else 2e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
def test_compiled_blocks_take_the_same_steps() -> None:
    """Reason for its time: the C++ compiler. With everything else at once."""
    options = ("workers.gradient_accumulation=2", "workers.activation_checkpointing=true")
    compiled, plain = make(0, 1, "workers.compile=true", *options), make(0, 1)
    close(
        [step(compiled, seed) for seed in range(2)], [step(plain, seed) for seed in range(2)], 1e-4
    )
    close(compiled.average_state(), plain.average_state(), 1e-4)


def test_two_networks_are_not_sharded() -> None:
    with pytest.raises(ConfigError, match=r"srgan trains two networks.*use ddp"):
        load_config(None, ["model.name=srgan", spread.FSDP])
