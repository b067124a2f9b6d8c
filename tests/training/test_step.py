"""One update: the same for any number of workers, never with a loss that is not finite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rayscale.models.registry import create_model
from rayscale.training.config import load_config
from rayscale.training.step import NonFiniteLossError, Trainer


def run_world(folder: Path, checkout: Path, world: int, *flags: str) -> list[dict[str, Any]]:
    environment = os.environ | {"PYTHONPATH": str(checkout / "platform")}
    script = str(checkout / "tests" / "training" / "world.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(folder), str(rank), str(world), *flags], env=environment
        )
        for rank in range(world)
    ]
    try:
        assert [process.wait(120) for process in processes] == [0] * world
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]


def test_two_workers_have_the_gradient_of_the_whole_batch(tmp_path: Path, checkout: Path) -> None:
    (alone,) = run_world(tmp_path, checkout, 1)
    together = run_world(tmp_path, checkout, 2)
    for worker in together:
        assert worker["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        for name, expected in alone["grads"].items():
            apart = (worker["grads"][name] - expected).abs().max()
            assert apart <= 1e-6 * max(1.0, expected.abs().max()), name


def test_a_bad_loss_on_one_worker_stops_all_before_the_update(
    tmp_path: Path, checkout: Path
) -> None:
    for worker in run_world(tmp_path, checkout, 2, "bad"):
        assert "not finite at step 1" in worker["outcome"]
        assert worker["kept"]


def make_trainer(*overrides: str) -> Trainer:
    config = load_config(None, ["data.batch=4", "precision=float32", *overrides])
    torch.manual_seed(0)
    return Trainer(config, create_model("edsr-baseline", scale=2, blocks=1, filters=8), peak=255)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    hr = torch.randint(0, 256, (4, 3, 16, 16), generator=random, dtype=torch.uint8)
    return hr[:, :, ::2, ::2], hr


def test_the_first_update_is_adam_on_l1() -> None:
    """Against Adam written out: the first step moves every weight by lr * g / (|g| + eps)."""
    trainer = make_trainer("optimizer.lr=1e-3")
    reference = create_model("edsr-baseline", scale=2, blocks=1, filters=8)
    reference.load_state_dict(trainer.model.state_dict())
    lr, hr = batch()
    (reference(lr.float()) - hr.float()).abs().mean().backward()
    trainer.advance(lr, hr)
    for (name, old), new in zip(
        reference.named_parameters(), trainer.model.parameters(), strict=True
    ):
        assert old.grad is not None
        expected = old - 1e-3 * old.grad / (old.grad.abs() + 1e-8)
        assert torch.allclose(new, expected, atol=2e-6), name


def test_a_diverging_run_stops_with_the_step_named() -> None:
    trainer = make_trainer("optimizer.lr=1e30")
    trainer.advance(*batch())
    with pytest.raises(NonFiniteLossError, match="step 2;"):
        trainer.advance(*batch())
    assert trainer.step == 1


def test_the_device_side_guard_keeps_weights_without_asking_the_host() -> None:
    """The way of a GPU, run here: found_inf makes the fused Adam skip, ``check`` raises later."""
    trainer = make_trainer()
    trainer.flags[0] = 1.0
    before = [p.detach().clone() for p in trainer.parameters]
    for p in trainer.parameters:
        p.grad = torch.ones_like(p)
    trainer.optimizer.found_inf = trainer.flags[0]  # type: ignore[attr-defined]
    trainer.optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))
    with pytest.raises(NonFiniteLossError):
        trainer.check()


def test_the_running_mean_follows_its_formula() -> None:
    trainer = make_trainer("optimizer.ema=0.9", "optimizer.lr=1e-2")
    expected = [p.detach().clone() for p in trainer.parameters]
    for _ in range(3):
        trainer.advance(*batch())
        expected = [0.9 * e + 0.1 * p for e, p in zip(expected, trainer.parameters, strict=True)]
    names = [name for name, _ in trainer.model.named_parameters()]
    state = trainer.averaged_state()
    for name, value in zip(names, expected, strict=True):
        assert torch.allclose(state[name], value, atol=1e-6)
        assert not torch.equal(state[name], trainer.model.state_dict()[name])


@pytest.mark.parametrize("overrides", [(), ("optimizer.loss=mse",), ("precision=bfloat16",)])
def test_the_loss_falls(overrides: tuple[str, ...]) -> None:
    trainer = make_trainer("optimizer.lr=3e-3", *overrides)
    trainer.advance(*batch())
    first = trainer.mean_loss()
    for _ in range(30):
        trainer.advance(*batch())
    trainer.mean_loss()
    trainer.advance(*batch())
    assert trainer.mean_loss() < 0.9 * first


def test_16_bit_patches_are_brought_to_the_value_range() -> None:
    deep = make_trainer()
    deep.gain = 255 / 65535
    shallow = make_trainer()
    lr, hr = batch()
    shallow.advance(lr, hr)
    deep.advance(
        (lr.to(torch.int32) * 257).to(torch.uint16), (hr.to(torch.int32) * 257).to(torch.uint16)
    )
    assert deep.mean_loss() == pytest.approx(shallow.mean_loss(), rel=1e-5)
