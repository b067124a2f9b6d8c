"""Spikes: the weights go back to the last good state, the data goes on, and it is bounded and restorable."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rayscale.data import Batch, ScaleStream
from rayscale.models.systems import create_model
from rayscale.models.weights import load_model
from rayscale.training.config import TrainConfig, load_config
from rayscale.training.guard import Guard, NonFiniteLossError, UnstableError
from rayscale.training.loop import train
from rayscale.training.run import describe, erase
from rayscale.training.sections import GuardSection
from rayscale.training.step import Trainer

Make = Callable[..., TrainConfig]


def make_trainer(*overrides: str) -> Trainer:
    config = load_config(None, ["data.batch=4", "precision=float32", *overrides])
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, blocks=1, filters=8)
    return Trainer(config, model, peak=255)


def batch(seed: int, white: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    hr = torch.randint(0, white, (4, 3, 16, 16), generator=random, dtype=torch.uint8)
    return hr[:, :, ::2, ::2], hr


def snapshot(trainer: Trainer) -> list[torch.Tensor]:
    moments = [value for item in trainer.optimizer.state.values() for value in item.values()]
    return [
        v.detach().clone() for v in (*trainer.live.values(), *moments, *(trainer.average or []))
    ]


def spike(trainer: Trainer) -> None:
    """A step whose loss is thousands of times the mean."""
    trainer.gain *= 1000
    trainer.advance(Batch(*batch(50)))
    trainer.gain /= 1000


def test_a_spike_restores_the_good_state_and_goes_on_with_the_next_step() -> None:
    trainer = make_trainer("guard.spike=20", "optimizer.ema=0.9")
    for seed in range(3):
        trainer.advance(Batch(*batch(seed)))
    trainer.keep()
    good, means = snapshot(trainer), trainer.guard.state()["means"]
    for seed in range(3):
        trainer.advance(Batch(*batch(seed)))
    spike(trainer)
    assert trainer.step == 7, "the batch of the spike is not seen again"
    assert trainer.figures()["rollbacks"] == 1
    assert trainer.guard.state()["means"] == means
    assert trainer.average
    assert all(torch.equal(a, b) for a, b in zip(good, snapshot(trainer), strict=True))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.advance(Batch(*batch(9)))
    assert not any(map(torch.equal, before, trainer.model.parameters()))
    assert trainer.step == 8


def test_without_the_option_a_spike_is_trained_on() -> None:
    trainer = make_trainer()
    trainer.advance(Batch(*batch(0)))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    spike(trainer)
    assert not any(map(torch.equal, before, trainer.model.parameters()))
    assert "rollbacks" not in trainer.figures()


def test_scales_have_means_of_their_own() -> None:
    guard = Guard(GuardSection(spike=3.0), torch.device("cpu"), world=1)
    for step, (scale, loss, spike) in enumerate(
        [(2, 1.0, False), (4, 9.0, False), (2, 2.0, False), (4, 20.0, False), (2, 4.0, True)]
    ):
        guard.watch(torch.tensor(loss), stop=False, step=step, scale=scale)
        assert guard.look() == (False, spike)
    assert guard.state()["means"] == pytest.approx({2: 1.01, 4: 9.11})


@pytest.mark.parametrize("kind", ["norm", "adjustable"])
def test_clipping_bears_a_step_that_was_rolled_back(kind: str) -> None:
    trainer = make_trainer("guard.spike=20", f"optimizer.clip={kind}")
    trainer.keep()
    trainer.advance(Batch(*batch(0)))
    spike(trainer)
    assert trainer.guard.rollbacks == 1


def test_the_number_of_rollbacks_is_bounded() -> None:
    trainer = make_trainer("guard.spike=20", "guard.max_rollbacks=2")
    trainer.keep()
    trainer.advance(Batch(*batch(0)))
    spike(trainer)
    trainer.advance(Batch(*batch(0)))
    spike(trainer)
    trainer.advance(Batch(*batch(0)))
    with pytest.raises(UnstableError, match=r"after 2 rollbacks \(guard\.max_rollbacks\)"):
        spike(trainer)


def test_a_long_run_bears_a_rare_spike() -> None:
    """Those before a checkpoint that was reached without any are forgiven; all are counted."""
    trainer = make_trainer("guard.spike=20", "guard.max_rollbacks=1")
    trainer.keep()
    for _ in range(3):
        trainer.advance(Batch(*batch(0)))
        spike(trainer)
        trainer.keep()  # reached after a rollback
        trainer.advance(Batch(*batch(0)))
        trainer.keep()  # reached without one
    assert trainer.guard.rollbacks == 3
    trainer.advance(Batch(*batch(0)))
    spike(trainer)
    trainer.keep()
    again = make_trainer("guard.spike=20", "guard.max_rollbacks=1")
    again.load(trainer.state())
    again.keep()  # a new start is no checkpoint that was reached
    again.advance(Batch(*batch(0)))
    with pytest.raises(UnstableError, match="after 1 rollbacks"):
        spike(again)


def test_a_loss_that_is_not_finite_still_stops() -> None:
    trainer = make_trainer("guard.spike=20")
    trainer.keep()
    trainer.advance(Batch(*batch(0)))
    trainer.gain = float("inf")
    with pytest.raises(Exception, match="not finite at step 2"):
        trainer.advance(Batch(*batch(1)))


def test_on_a_device_that_is_not_asked_updates_wait_for_the_check() -> None:
    """The way of a GPU, run here: from the spike to the check no update is made, then the state goes back."""
    trainer = make_trainer("guard.spike=20", "optimizer.ema=0.9")
    trainer.synchronous = False
    trainer.advance(Batch(*batch(0)))
    trainer.keep()
    good = snapshot(trainer)
    trainer.advance(Batch(*batch(1)))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    assert not all(map(torch.equal, good, snapshot(trainer)))
    spike(trainer)
    assert trainer.guard.blocked == 1
    trainer.gain = float("nan")
    trainer.advance(Batch(*batch(2)))
    assert all(map(torch.equal, before, trainer.model.parameters()))
    assert trainer.check() is False
    assert all(torch.equal(a, b) for a, b in zip(good, snapshot(trainer), strict=True))
    assert trainer.guard.blocked == 0


def test_a_run_that_rolled_back_resumes_bit_equal(make_config: Make) -> None:
    """With a bound below the mean, spikes come by themselves."""
    spiky = (
        "guard.spike=0.9",
        "guard.max_rollbacks=100",
        "optimizer.steps=12",
        "checkpoint.every=4",
        "optimizer.ema=0.9",
    )
    whole = train(make_config("run.name=whole", *spiky), device="cpu")
    assert whole.metrics["rollbacks"] >= 2
    assert describe(whole)["rollbacks"] == str(int(whole.metrics["rollbacks"]))

    class StopError(Exception):
        pass

    def stop(figures: dict[str, float]) -> None:
        if figures["step"] == 7:
            raise StopError

    halves = make_config("run.name=halves", "validation.every=7", *spiky)
    with pytest.raises(StopError):
        train(halves, device="cpu", report=stop)
    result = train(halves, device="cpu")
    assert result.metrics["rollbacks"] == whole.metrics["rollbacks"]
    assert result.sha256 == whole.sha256


def test_a_run_that_gave_up_says_how_its_weights_go_on_with_another_rate(make_config: Make) -> None:
    """The options that the message ends with, given to the same command, start from the last checkpoint."""
    spiky = ("guard.spike=0.9", "guard.max_rollbacks=0", "checkpoint.every=1", "run.name=a")
    with pytest.raises(UnstableError) as caught:
        train(make_config(*spiky, "optimizer.steps=50"), device="cpu")
    told = re.search(r"from the weights of step (\d+) at half the rate: (.*)$", str(caught.value))
    assert told
    words = shlex.split(told[2])
    assert words[:3] == ["rayscale", "train", "--config"]
    options = words[5::2]
    assert "optimizer.lr=0.0005" in options
    config = load_config(words[3], [*options, "optimizer.steps=1", "guard.spike=0"])
    old = load_model(
        Path(config.run.uri or "", "a", f"checkpoints/step-{int(told[1]):08d}/weights.safetensors")
    )
    assert train(config, device="cpu").name == "a-again"
    new = load_model(Path(config.run.uri or "", "a-again", "model.safetensors"))
    for a, b in zip(old.parameters(), new.parameters(), strict=True):
        assert (a - b).abs().max() <= 0.000501, "one step of Adam away"


def test_a_loss_that_is_not_finite_leaves_its_batch_and_names_layer_and_way_on(
    make_config: Make,
) -> None:
    with pytest.raises(
        NonFiniteLossError, match=r"not finite at step 2;.* It had no checkpoint yet"
    ):
        train(make_config("optimizer.lr=1e30"), device="cpu")
    config = make_config("optimizer.lr=1e30", "checkpoint.every=1", "run.name=a").identified()
    with pytest.raises(
        NonFiniteLossError,
        match=r"output is (head|body)\.\S+ \(Conv2d\).* step 1 at half.*lr=5e\+29",
    ) as caught:
        train(config, device="cpu")
    told = re.search(r"The batch is kept in (\S+)\. ", str(caught.value))
    assert told
    kept = torch.load(told[1], weights_only=True)
    assert (kept["step"], kept["rank"]) == (1, 0)
    stream = ScaleStream(config.data.uri or "", (2,), patch=12, batch=4, seed=1)
    lr, hr, scale = stream.batches(1)[0]
    (part,) = kept["batches"]
    assert torch.equal(part["lr"], lr)
    assert torch.equal(part["hr"], hr)
    assert part["scale"] == scale
    erase(config.uri)
    assert not list(Path(config.uri).glob("failures/*"))


def test_anomaly_names_the_operation_before_the_update() -> None:
    """The root of 0 is finite, its gradient is not, and that times 0 is not a number."""
    trainer = make_trainer("guard.anomaly=true")
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer._loss = lambda output, target: (output * 0).sqrt().mean()  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLossError, match=r"gradient is not finite at step 1.*MulBackward"):
        trainer.advance(Batch(*batch(0)))
    assert all(map(torch.equal, before, trainer.model.parameters()))
    assert not torch.is_anomaly_enabled()
