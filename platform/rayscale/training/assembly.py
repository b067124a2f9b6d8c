"""From a configuration to the network that is trained, and to the trainer that trains it."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import torch

from rayscale.data.manifest import Manifest
from rayscale.errors import ConfigError, quantity
from rayscale.models.network import SuperResolver
from rayscale.models.systems import create_model, find_system
from rayscale.models.transfer import warm_start
from rayscale.models.weights import read_weights
from rayscale.storage import connect, split
from rayscale.training.adversarial import AdversarialTrainer
from rayscale.training.config import TrainConfig
from rayscale.training.step import Trainer

logger = logging.getLogger(__name__)


def make_trainer(
    config: TrainConfig,
    manifest: Manifest,
    *,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
) -> Trainer:
    """The trainer of ``config`` on a dataset, its weights drawn from ``run.seed``.

    Raises ConfigError as ``make_model`` does, and for a GAN stage that is not told what it starts from.
    """
    if config.is_adversarial and config.model.warm_start is None:
        raise ConfigError(
            f"{config.model.name} starts from a generator that was trained without a discriminator: set "
            f"model.warm_start to {find_system(config.model.name).pretraining}, or to none to start from fresh weights"
        )
    torch.manual_seed(config.run.seed)
    model = make_model(config, manifest)
    kind = AdversarialTrainer if config.is_adversarial else Trainer
    return kind(config, model, peak=manifest.peak, rank=rank, world=world, device=device)


def make_model(config: TrainConfig, manifest: Manifest) -> SuperResolver:
    """The network of ``config`` for the channels of a dataset, with its initial weights.

    Where a mean is subtracted, three channels take that of DIV2K as the official code does, any other number the
    dataset's own. Raises ConfigError for what cannot be trained on this dataset.
    """
    wanted = config.model
    system = find_system(wanted.name)
    channels, mean = wanted.channels, None
    if not system.network.any_channels:
        channels = channels or manifest.channels
        if channels != manifest.channels:
            raise ConfigError(
                f"model.channels is {channels}, but the dataset has {quantity(manifest.channels, 'channel')}; leave "
                "model.channels out, or prepare a dataset with as many"
            )
        if "mean" in system.options and channels != 3 and any(manifest.mean):
            mean = manifest.mean
    model = create_model(
        wanted.name,
        scale=wanted.scale,
        channels=channels,
        filters=wanted.filters,
        blocks=wanted.blocks,
        residual_scaling=wanted.residual_scaling,
        value_range=wanted.value_range,
        mean=mean,
    )
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"{wanted.name} has nothing to train by gradients; take a network")
    for scale in wanted.drawn:
        model.resolve_scale(scale)
    if wanted.warm_start not in (None, "none"):
        _start_from(model, str(wanted.warm_start), any_range=wanted.value_range is not None)
    return model


def _start_from(model: SuperResolver, uri: str, any_range: bool) -> None:
    folder, key = split(uri)
    with tempfile.TemporaryDirectory(prefix="rayscale-") as temporary:
        path = Path(temporary, key)
        connect(folder).fetch(key, path)
        fresh = warm_start(model, read_weights(path).model, any_range=any_range)
    logger.info("started from %s; fresh: %s", uri, ", ".join(fresh) or "nothing")
