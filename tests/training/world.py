"""One of several gloo processes: takes steps on its share of a batch and saves what came of it.

``python world.py FOLDER RANK WORLD [bad | several]``; with ``bad`` the last rank's share has a loss that is not finite,
with ``several`` a network of three scales trains on two of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from rayscale.models.registry import create_model
from rayscale.training.config import load_config
from rayscale.training.guard import NonFiniteLossError
from rayscale.training.step import Trainer

SCALES = (2, 4, 2)  # of the steps of ``several``


def patches(seed: int, scale: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A global batch of six."""
    random = torch.Generator().manual_seed(seed)
    lr = torch.randint(0, 256, (6, 3, 8, 8), generator=random, dtype=torch.uint8)
    side = 8 * scale
    return lr, torch.randint(0, 256, (6, 3, side, side), generator=random, dtype=torch.uint8)


def several(folder: Path, rank: int, world: int) -> None:
    # A large eps: where a gradient is nearly 0, Adam would make of its rounding a whole step.
    overrides = ["data.batch=6", "precision=float32", "optimizer.eps=1e-2", "optimizer.lr=1e-2"]
    config = load_config(None, [*overrides, "model.name=mdsr-baseline", f"workers.count={world}"])
    torch.manual_seed(0)
    model = create_model("mdsr-baseline", blocks=2, filters=8)
    trainer = Trainer(config, model, peak=255, rank=rank, world=world)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    mine = slice(rank * 6 // world, (rank + 1) * 6 // world)
    graded = []
    for step, scale in enumerate(SCALES):
        lr, hr = patches(step, scale)
        trainer.advance(lr[mine], hr[mine], scale)
        graded.append([name for name, p in model.named_parameters() if p.grad is not None])
    state = trainer.optimizer.state
    after = {name: p.detach() for name, p in model.named_parameters()}
    moments = {name: len(state[p]) for name, p in model.named_parameters() if p in state}
    outcome = {"before": before, "after": after, "graded": graded, "moments": moments}
    torch.save(outcome, folder / f"{world}-{rank}.pt")


def share(folder: Path, rank: int, world: int, bad: bool) -> None:
    config = load_config(None, ["data.batch=6", "precision=float32", f"workers.count={world}"])
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, blocks=2, filters=8)
    trainer = Trainer(config, model, peak=255, rank=rank, world=world)
    lr, hr = patches(1)
    mine = slice(rank * 6 // world, (rank + 1) * 6 // world)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    if bad and rank == world - 1:
        trainer.gain = float("inf")
    try:
        trainer.advance(lr[mine], hr[mine])
        outcome = "ok"
    except NonFiniteLossError as error:
        outcome = str(error)
    names = [name for name, _ in model.named_parameters()]
    grads = {name: p.grad for name, p in model.named_parameters()}
    kept = all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    torch.save(
        {
            "grads": {name: grads[name] for name in names},
            "outcome": outcome,
            "kept": kept,
            "loss": trainer.mean_loss() if outcome == "ok" else None,
        },
        folder / f"{world}-{rank}.pt",
    )


def main(folder: Path, rank: int, world: int, kind: str = "") -> None:
    if world > 1:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
        )
    if kind == "several":
        several(folder, rank, world)
    else:
        share(folder, rank, world, kind == "bad")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
