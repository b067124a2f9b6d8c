"""Workers that hold a network in different ways, as ``world.py`` starts them; they save losses and whole states."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.training.world import main, patches

from rayscale.data import Batch
from rayscale.models.systems import create_model
from rayscale.training.config import load_config
from rayscale.training.step import Trainer

STEPS = 4
# A large eps: where a gradient is nearly 0, Adam would make of its rounding a whole step.
BASE = ("data.batch=6", "precision=float32", "optimizer.eps=1e-2", "optimizer.ema=0.9")
FSDP = "workers.strategy=fsdp"
WAYS: dict[str, tuple[str, ...]] = {
    "ddp": (),
    "fsdp": (FSDP,),
    "ddp-micro": ("workers.gradient_accumulation=3",),
    "fsdp-all": (
        FSDP,
        "workers.gradient_accumulation=2",
        "workers.activation_checkpointing=true",
        "workers.channels_last=false",
    ),
}
CLIPPED = ("optimizer.clip=norm", "optimizer.clip_at=1.0")


def make(rank: int, world: int, *overrides: str, **shape: Any) -> Trainer:
    config = load_config(None, [*BASE, f"workers.count={world}", *overrides])
    torch.manual_seed(0)
    model = create_model(config.model.name, **({"blocks": 2, "filters": 8, "scale": 2} | shape))
    return Trainer(config, model, peak=255, rank=rank, world=world)


def step(trainer: Trainer, seed: int, scale: int = 2) -> float:
    lr, hr = patches(seed, scale)
    mine = slice(trainer.rank * 6 // trainer.world, (trainer.rank + 1) * 6 // trainer.world)
    trainer.advance(Batch(lr[mine], hr[mine], scale))
    return trainer.mean_loss()


def ways(folder: Path, rank: int, world: int) -> None:
    """Every way of ``WAYS`` and every bound of gradients, steps from the same weights."""
    found = {}
    for name, overrides in WAYS.items():
        trainer = make(rank, world, *overrides, *CLIPPED)
        losses = [step(trainer, seed) for seed in range(STEPS)]
        found[name] = {"losses": losses, **trainer.state(), "best": trainer.average_state()}
    torch.save(found, folder / f"{world}-{rank}.pt")


def scales(folder: Path, rank: int, world: int) -> None:
    """MDSR, of which every step leaves some unused."""
    found = {}
    for name in ("ddp", "fsdp"):
        shape = {"scale": None}
        trainer = make(
            rank, world, *WAYS[name], "model.name=mdsr-baseline", "optimizer.clip=value", **shape
        )
        losses = [step(trainer, seed, scale) for seed, scale in enumerate((2, 4, 2))]
        found[name] = {"losses": losses, **trainer.state()}
    torch.save(found, folder / f"{world}-{rank}.pt")


def carried(folder: Path, rank: int, world: int) -> None:
    """A state that goes from one way to the next after every step."""
    state, losses = None, []
    for seed, name in enumerate(("fsdp", "ddp", "fsdp-all", "fsdp")):
        trainer = make(rank, world, *WAYS[name])
        if state is not None:
            torch.save(state, folder / f"state-{rank}.pt")
            trainer.load(torch.load(folder / f"state-{rank}.pt", weights_only=True))
        losses.append(step(trainer, seed))
        state = trainer.state()
    torch.save({"losses": losses, **(state or {})}, folder / f"{world}-{rank}.pt")


def wide(folder: Path, rank: int, world: int) -> None:
    """EDSR of the paper's width, with an eighth of its blocks: 256 filters."""
    found = {}
    for name in ("ddp", "fsdp") if world > 1 else ("ddp",):
        shape = {"blocks": 4, "filters": 256}
        trainer = make(rank, world, *WAYS[name], "model.name=edsr", "optimizer.ema=0", **shape)
        held = sum(p.numel() for p in trainer._parts)
        found[name] = {"losses": [step(trainer, seed) for seed in range(2)], "held": held}
        del trainer
    torch.save(found, folder / f"{world}-{rank}.pt")


KINDS: dict[str, Callable[[Path, int, int], None]] = {
    "ways": ways,
    "scales": scales,
    "carried": carried,
}

if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        int(sys.argv[3]),
        *sys.argv[4:],
        kinds={**KINDS, "wide": wide},
    )
