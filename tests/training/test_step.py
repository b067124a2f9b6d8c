"""One update: the same for any number of workers, never with a loss that is not finite."""

from __future__ import annotations

import pytest
import torch
from skimage.color import rgb2ycbcr
from tests.training.world import Worlds

from rayscale.data import Batch
from rayscale.models.systems import create_model
from rayscale.training.config import load_config
from rayscale.training.guard import NonFiniteLossError
from rayscale.training.step import Trainer


def test_workers_of_unequal_shares_have_the_gradient_of_the_whole_batch(worlds: Worlds) -> None:
    alone = worlds.one("share")
    for worker in worlds.two("share"):
        assert worker["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        for name, expected in alone["grads"].items():
            apart = (worker["grads"][name] - expected).abs().max()
            assert apart <= 1e-6 * max(1.0, expected.abs().max()), name


def test_a_mixed_step_has_the_gradient_of_all_its_scales(worlds: Worlds) -> None:
    """Patches of x2, x3 and x4 in one step of MDSR: every part of it learns, the same on any number of workers."""
    alone = worlds.one("mixed")
    assert all(grad is not None and grad.abs().max() > 0 for grad in alone["grads"].values())
    for worker in worlds.two("mixed"):
        assert worker["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        for name, expected in alone["grads"].items():
            apart = (worker["grads"][name] - expected).abs().max()
            assert apart <= 1e-6 * max(1.0, expected.abs().max()), name


def test_a_bad_loss_on_one_worker_stops_all_before_the_update(worlds: Worlds) -> None:
    for worker in worlds.two("bad"):
        assert "not finite at step 1" in worker["outcome"]
        assert worker["kept"]


def test_workers_on_gpus_stop_together_at_the_next_check(worlds: Worlds) -> None:
    """The way of a GPU, run here: the one that is asked to stop goes on with the others until all know."""
    for worker in worlds.two("stop"):
        assert worker == {"stopped": [False, False, False], "checked": True, "step": 3}


def test_a_step_moves_the_parts_of_its_scale_alone_on_any_number_of_workers(
    worlds: Worlds,
) -> None:
    """MDSR at x2, x4, x2: the parts of x3 stay, and so do those of x4 while x2 is trained, moments included."""
    alone, together = worlds.one("several"), worlds.two("several")
    part = {scale: (f"pre_process.{i}.", f"upsample.{i}.") for i, scale in enumerate((2, 3, 4))}
    for worker in (alone, *together):
        for names, scale in zip(worker["graded"], (2, 4, 2), strict=True):
            others = tuple(p for other in {2, 3, 4} - {scale} for p in part[other])
            assert set(names) == {name for name in worker["before"] if not name.startswith(others)}
        for name, value in worker["after"].items():
            kept = torch.equal(value, worker["before"][name])
            assert kept == name.startswith(part[3]), name
            assert (name in worker["moments"]) == (not kept), name
            # float32 of another order of sums: far below the 1e-2 of a step
            assert (value - alone["after"][name]).abs().max() < 1e-5, name


def test_the_parts_of_other_scales_keep_value_and_moments() -> None:
    trainer = make_mdsr("optimizer.weight_decay=0.1")
    random = torch.Generator().manual_seed(1)

    def step(scale: int) -> None:
        side = 8 * scale
        hr = torch.randint(0, 256, (4, 3, side, side), generator=random, dtype=torch.uint8)
        trainer.advance(Batch(hr[:, :, ::scale, ::scale], hr, scale))

    def part(index: int) -> list[torch.Tensor]:
        prefix = (f"pre_process.{index}.", f"upsample.{index}.")
        found = [p for name, p in trainer.model.named_parameters() if name.startswith(prefix)]
        moments = [value for p in found for value in trainer.optimizer.state[p].values()]
        return [value.detach().clone() for value in (*found, *moments)]

    step(2)
    before = part(0)
    step(4)
    assert len(before) == 4 * len(
        [
            n
            for n, _ in trainer.model.named_parameters()
            if "pre_process.0" in n or "upsample.0" in n
        ]
    )
    assert all(torch.equal(a, b) for a, b in zip(before, part(0), strict=True))
    step(2)
    assert not any(torch.equal(a, b) for a, b in zip(before, part(0), strict=True))


def make_mdsr(*overrides: str) -> Trainer:
    base = ["model.name=mdsr-baseline", "data.batch=4", "precision=float32"]
    torch.manual_seed(0)
    model = create_model("mdsr-baseline", blocks=1, filters=4)
    return Trainer(load_config(None, [*base, *overrides]), model, peak=255)


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
    trainer.advance(Batch(lr, hr))
    for (name, old), new in zip(
        reference.named_parameters(), trainer.model.parameters(), strict=True
    ):
        assert old.grad is not None
        expected = old - 1e-3 * old.grad / (old.grad.abs() + 1e-8)
        assert torch.allclose(new, expected, atol=2e-6), name


def test_a_diverging_run_stops_with_the_step_named() -> None:
    trainer = make_trainer("optimizer.lr=1e30")
    trainer.advance(Batch(*batch()))
    with pytest.raises(NonFiniteLossError, match="step 2;"):
        trainer.advance(Batch(*batch()))
    assert trainer.step == 1


def test_the_device_side_guard_keeps_weights_without_asking_the_host() -> None:
    """The way of a GPU, run here: found_inf makes the fused Adam skip, ``check`` raises later."""
    trainer = make_trainer()
    trainer.synchronous = False
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.gain = float("nan")
    trainer.advance(Batch(*batch()))
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    with pytest.raises(NonFiniteLossError):
        trainer.check()


def test_the_running_mean_follows_its_formula() -> None:
    trainer = make_trainer("optimizer.ema=0.25", "optimizer.lr=1e-2")
    expected = [p.detach().clone() for p in trainer.model.parameters()]
    for decay in (1 / 10, 2 / 11, 0.25, 0.25):
        trainer.advance(Batch(*batch()))
        expected = [
            e.lerp(p.detach(), 1 - decay)
            for e, p in zip(expected, trainer.model.parameters(), strict=True)
        ]
    names = [name for name, _ in trainer.model.named_parameters()]
    state = trainer.average_state()
    for name, value in zip(names, expected, strict=True):
        assert torch.allclose(state[name], value, atol=1e-6)
        assert not torch.equal(state[name], trainer.model.state_dict()[name])


def test_the_running_mean_has_running_statistics_of_its_own() -> None:
    config = load_config(
        None,
        [
            "data.batch=4",
            "precision=float32",
            "model.name=srresnet",
            "model.scale=2",
            "optimizer.ema=0.9",
        ],
    )
    torch.manual_seed(0)
    model = create_model("srresnet", scale=2, blocks=1, filters=8)
    trainer = Trainer(config, model, peak=255)
    key = "body.0.body.1.running_mean"
    expected = trainer.average_state()[key].clone()
    for step in range(3):
        trainer.advance(Batch(*batch()))
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * model.state_dict()[key]
    assert expected.abs().max() > 0
    assert torch.allclose(trainer.average_state()[key], expected, atol=1e-7)
    assert not torch.allclose(model.state_dict()[key], expected, rtol=0.1)


@pytest.mark.parametrize(("loss", "of"), [("mse", 1.0), ("euclidean", 16 * 16 / 2)])
def test_a_network_on_luma_learns_luma(loss: str, of: float) -> None:
    """Against scikit-image's Y: the loss is of one channel, in units in which white is 1."""
    config = load_config(
        None, ["data.batch=4", "model.name=vdsr", "precision=float32", f"optimizer.loss={loss}"]
    )
    torch.manual_seed(0)
    model = create_model("vdsr", blocks=2, filters=4)
    lr, hr = batch()
    low, high = (
        torch.from_numpy(rgb2ycbcr(x.permute(0, 2, 3, 1).numpy())[..., :1] / 255).float()
        for x in (lr, hr)
    )
    with torch.no_grad():
        error = model(low.permute(0, 3, 1, 2), 2) - high.permute(0, 3, 1, 2)
    trainer = Trainer(config, model, peak=255)
    trainer.advance(Batch(lr, hr, 2))
    assert trainer.mean_loss() == pytest.approx(float((error**2).mean()) * of, rel=1e-4)


@pytest.mark.parametrize("overrides", [(), ("optimizer.loss=mse",), ("precision=bfloat16",)])
def test_the_loss_falls(overrides: tuple[str, ...]) -> None:
    trainer = make_trainer("optimizer.lr=3e-3", *overrides)
    trainer.advance(Batch(*batch()))
    first = trainer.mean_loss()
    for _ in range(30):
        trainer.advance(Batch(*batch()))
    trainer.mean_loss()
    trainer.advance(Batch(*batch()))
    assert trainer.mean_loss() < 0.9 * first


def test_16_bit_patches_are_brought_to_the_value_range() -> None:
    deep = make_trainer()
    deep.gain = 255 / 65535
    shallow = make_trainer()
    lr, hr = batch()
    shallow.advance(Batch(lr, hr))
    deep.advance(Batch(*((pixels.to(torch.int32) * 257).to(torch.uint16) for pixels in (lr, hr))))
    assert deep.mean_loss() == pytest.approx(shallow.mean_loss(), rel=1e-5)
