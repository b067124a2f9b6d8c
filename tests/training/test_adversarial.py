"""The GAN stage: counts of the papers, losses against their formulas, exact resumption, several workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.world import Worlds
from torch.nn import functional

from rayscale.data import Batch
from rayscale.errors import ConfigError
from rayscale.models.systems import create_model
from rayscale.models.weights import load_model
from rayscale.training.adversarial import AdversarialTrainer
from rayscale.training.config import TrainConfig, load_config
from rayscale.training.discriminator import Discriminator
from rayscale.training.loop import train
from rayscale.training.perceptual import VGGFeatures
from rayscale.training.run import Run

Make = Callable[..., TrainConfig]

GAN = (
    "model.name=srgan", "model.scale=2", "model.blocks=1", "data.patch=8", "data.batch=2", "adversarial.content=l1",
    "model.warm_start=none", "optimizer.ema=0.9",
)  # fmt: skip


@pytest.mark.parametrize(
    ("channels", "side", "parameters"), [(3, 96, 23_565_505), (1, None, 5_214_273)]
)
def test_discriminators_have_the_published_parameters(
    channels: int, side: int | None, parameters: int
) -> None:
    with torch.device("meta"):
        network = Discriminator(channels, side)
        assert sum(p.numel() for p in network.parameters()) == parameters
        assert network(torch.empty(2, channels, 96, 96)).shape == (2, 1)


@pytest.mark.parametrize("side", [16, 20, 33])
def test_a_discriminator_takes_the_side_it_was_made_for(side: int) -> None:
    with torch.device("meta"):
        assert Discriminator(3, side)(torch.empty(2, 3, side, side)).shape == (2, 1)
        assert Discriminator(3, None)(torch.empty(2, 3, side, side + 7)).shape == (2, 1)


def make_trainer(*overrides: str) -> AdversarialTrainer:
    config = load_config(None, [*GAN, "precision=float32", *overrides])
    torch.manual_seed(0)
    model = create_model("srgan", scale=2, blocks=1, filters=8)
    return AdversarialTrainer(config, model, peak=255)


def batch(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    hr = torch.randint(0, 256, (2, 3, 16, 16), generator=random, dtype=torch.uint8)
    return hr[:, :, ::2, ::2], hr


def test_both_losses_and_gradients_are_those_of_the_formula() -> None:
    trainer, twin = make_trainer("adversarial.weight=0.5"), make_trainer("adversarial.weight=0.5")
    lr, hr = batch()
    real, low = hr / 127.5 - 1, lr / 255
    fake = twin.model(low) * 2 - 1
    loss = (fake - real).abs().mean() + 0.5 * functional.softplus(-twin.discriminator(fake)).mean()
    loss.backward()
    expected = [p.grad.clone() for p in twin.model.parameters() if p.grad is not None]
    twin.discriminator.zero_grad()
    judged = functional.softplus(-twin.discriminator(real)).mean()
    judged = judged + functional.softplus(twin.discriminator(fake.detach())).mean()
    judged.backward()
    trainer.advance(Batch(lr, hr))
    figures = trainer.figures()
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert figures["discriminator_loss"] == pytest.approx(judged.item(), rel=1e-5)
    for mine, other in zip(trainer.model.parameters(), expected, strict=True):
        assert mine.grad is not None
        assert (mine.grad - other).norm() < 1e-3 * other.norm() + 1e-5
    for mine, other in zip(
        trainer.discriminator.parameters(), twin.discriminator.parameters(), strict=True
    ):
        assert mine.grad is not None
        assert other.grad is not None
        assert (mine.grad - other.grad).norm() < 1e-3 * other.grad.norm() + 1e-5


def test_the_discriminator_learns_to_tell() -> None:
    trainer = make_trainer("optimizer.lr=1e-3")
    trainer.advance(Batch(*batch()))
    first = trainer.figures()["discriminator_loss"]
    for _ in range(8):
        trainer.advance(Batch(*batch()))
    trainer.figures()
    trainer.advance(Batch(*batch()))
    assert trainer.figures()["discriminator_loss"] < 0.5 * first


def test_a_lost_discriminator_stops_both() -> None:
    trainer = make_trainer()
    trainer.advance(Batch(*batch()))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    # Only what it says of its own batches: the generator's loss stays finite.
    trainer.judge = lambda images: trainer.discriminator(images) * float("nan")  # type: ignore[assignment]
    with pytest.raises(Exception, match="not finite at step 2"):
        trainer.advance(Batch(*batch()))
    assert all(map(torch.equal, before, trainer.model.parameters()))


def test_a_spike_sets_both_networks_back() -> None:
    trainer = make_trainer("guard.spike=5")
    trainer.advance(Batch(*batch()))
    trainer.keep()
    before = [p.detach().clone() for p in trainer.discriminator.parameters()]
    trainer.advance(Batch(*batch(2)))
    assert not any(map(torch.equal, before, trainer.discriminator.parameters()))
    trainer.gain *= 100
    trainer.advance(Batch(*batch(3)))
    assert trainer.guard.rollbacks == 1
    assert all(map(torch.equal, before, trainer.discriminator.parameters()))


def test_an_interrupted_run_ends_bit_equal_in_both_networks(make_config: Make) -> None:
    class StopError(Exception):
        """Stands for a kill between two checkpoints."""

    def stop(figures: dict[str, float]) -> None:
        if figures["step"] == 3:
            raise StopError

    whole = train(make_config(*GAN, "run.name=whole", "optimizer.steps=4"), device="cpu")
    parts = make_config(*GAN, "run.name=parts", "optimizer.steps=4", "validation.every=3")
    with pytest.raises(StopError):
        train(parts, device="cpu", report=stop)
    assert Run(parts.identified()).checkpoints.steps() == [2]
    resumed = train(parts, device="cpu")
    assert resumed.sha256 == whole.sha256
    one, other = (
        Run(make_config(*GAN, f"run.name={name}").identified()).checkpoints.load(4).state
        for name in ("whole", "parts")
    )
    for key in ("discriminator", "model"):
        assert all(torch.equal(one[key][name], other[key][name]) for name in one[key])
    moments = [state["judge_optimizer"]["state"][0]["exp_avg"] for state in (one, other)]
    assert torch.equal(*moments)
    generator = load_model(Path(str(whole.weights)))
    assert generator.spec.system == "srgan"
    assert not any("trunk" in name for name, _ in generator.named_parameters())


def test_the_generator_starts_from_srresnet(make_config: Make, memory: Any) -> None:
    shared = ("model.scale=2", "model.blocks=1", "data.patch=8", "data.batch=2")
    start = train(make_config("model.name=srresnet", "run.name=start", *shared), device="cpu")
    with pytest.raises(ConfigError, match=r"model\.warm_start .*SRResNet"):
        train(make_config("model.name=srgan", "adversarial.content=l1", *shared), device="cpu")
    still = (
        "optimizer.lr=1e-12",
        "optimizer.steps=1",
        f"model.warm_start={start.weights}",
        "run.name=gan",
    )
    gan = make_config("model.name=srgan", "adversarial.content=l1", *shared, *still)
    result = train(gan, device="cpu", metrics=memory)
    a, b = (dict(load_model(Path(str(r.weights))).named_parameters()) for r in (start, result))
    assert all(torch.allclose(a[key], b[key], atol=1e-9) for key in a)


def test_any_scale_against_a_discriminator_of_any_size(make_config: Make) -> None:
    config = make_config(
        "model.name=meta-srgan", "model.blocks=1", "model.scales=[1.5, 2, 2.5]", "data.patch=10", "data.batch=2",
        "model.warm_start=none",
    )  # fmt: skip
    assert train(config, device="cpu").complete


def test_without_weights_of_vgg_nothing_is_made_up(make_config: Make) -> None:
    config = make_config(*GAN, "adversarial.content=vgg54")
    with pytest.raises(ConfigError, match=r"adversarial\.vgg names no file.*content=mse or l1"):
        train(config, device="cpu")


def vgg_state() -> dict[str, torch.Tensor]:
    """The first four convolutions of VGG19 in torchvision's layout, with random weights."""
    random = torch.Generator().manual_seed(0)
    places = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128)}
    state = {}
    for place, (out, inputs) in places.items():
        weight = torch.randn(out, inputs, 3, 3, generator=random) / (3 * inputs**0.5)
        state[f"features.{place}.weight"] = weight
        state[f"features.{place}.bias"] = torch.randn(out, generator=random) * 0.1
    return state


def test_features_are_those_of_vgg19(tmp_path: Path) -> None:
    """Against the layers written out: up to the activation after conv2_2, ImageNet's normalisation, over 12.75."""
    state = vgg_state()
    torch.save(state | {"classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg19.pth")
    network = VGGFeatures(str(tmp_path / "vgg19.pth"), "vgg22")
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    y = torch.stack(
        [
            (x[:, i] * 0.5 + 0.5 - mean) / deviation
            for i, (mean, deviation) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225)))
        ],
        dim=1,
    )
    for place in (0, 2, 5, 7):
        y = functional.conv2d(
            y, state[f"features.{place}.weight"], state[f"features.{place}.bias"], padding=1
        ).relu()
        y = functional.max_pool2d(y, 2) if place == 2 else y
    assert torch.allclose(network(x), y / 12.75, atol=1e-5)
    grey = x[:, :1]
    assert torch.allclose(network(grey), network(grey.repeat(1, 3, 1, 1)), atol=1e-6)
    assert not any(p.requires_grad for p in network.parameters())


def test_a_run_on_features_of_a_local_file(make_config: Make, tmp_path: Path) -> None:
    torch.save(vgg_state(), tmp_path / "vgg19.pth")
    features = ("adversarial.content=vgg22", f"adversarial.vgg={tmp_path / 'vgg19.pth'}")
    assert train(make_config(*GAN, *features, "optimizer.steps=1"), device="cpu").complete


def test_vgg54_is_the_last_convolution_after_its_activation(tmp_path: Path) -> None:
    torch.save(vgg_state(), tmp_path / "short.pth")
    with pytest.raises(ConfigError, match=r"features\.10\.weight.*missing"):
        VGGFeatures(str(tmp_path / "short.pth"), "vgg54")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ConfigError, match="not a file of weights"):
        VGGFeatures(str(tmp_path / "text.pth"), "vgg54")


def test_features_are_refused_for_bands(tmp_path: Path) -> None:
    torch.save(vgg_state(), tmp_path / "vgg19.pth")
    features = ("adversarial.content=vgg22", f"adversarial.vgg={tmp_path / 'vgg19.pth'}")
    model = create_model("srgan", scale=2, channels=4, blocks=1, filters=8)
    with pytest.raises(ConfigError, match=r"grey or RGB images, these have 4 channels"):
        AdversarialTrainer(load_config(None, [*GAN, *features]), model, peak=255)


@pytest.mark.slow
def test_two_workers_move_alike(worlds: Worlds) -> None:
    """Statistics of a batch are local, so two are not one; but both workers hold the same two networks."""
    one, other = worlds.two("gan")
    for network in ("generator", "discriminator"):
        for name, value in one[network].items():
            assert torch.equal(value, other[network][name]), name
    assert one["loss"] == other["loss"]
    assert one["discriminator_loss"] == other["discriminator_loss"]
    key = "body.0.body.1.running_mean"
    assert not torch.equal(one["statistics"][key], other["statistics"][key])
