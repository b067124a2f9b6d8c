"""One of several gloo processes: takes a step on its share of a batch and saves gradients and weights.

``python world.py FOLDER RANK WORLD [bad]``; with ``bad`` the last rank's share has a loss that is not finite.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from rayscale.models.registry import create_model
from rayscale.training.config import load_config
from rayscale.training.step import NonFiniteLossError, Trainer


def share(folder: Path, rank: int, world: int, bad: bool) -> None:
    torch.set_num_threads(1)
    config = load_config(None, ["data.batch=6", "precision=float32", f"workers.count={world}"])
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, blocks=2, filters=8)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
        )
    trainer = Trainer(config, model, peak=255, rank=rank, world=world)
    random = torch.Generator().manual_seed(1)
    lr = torch.randint(0, 256, (6, 3, 8, 8), generator=random, dtype=torch.uint8)
    hr = torch.randint(0, 256, (6, 3, 16, 16), generator=random, dtype=torch.uint8)
    mine = slice(rank * 6 // world, (rank + 1) * 6 // world)
    before = [p.detach().clone() for p in trainer.parameters]
    if bad and rank == world - 1:
        trainer.gain = float("inf")
    try:
        trainer.advance(lr[mine], hr[mine])
        outcome = "ok"
    except NonFiniteLossError as error:
        outcome = str(error)
    names = [name for name, _ in model.named_parameters()]
    grads = {name: p.grad for name, p in model.named_parameters()}
    kept = all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))
    torch.save(
        {
            "grads": {name: grads[name] for name in names},
            "outcome": outcome,
            "kept": kept,
            "loss": trainer.mean_loss() if outcome == "ok" else None,
        },
        folder / f"{world}-{rank}.pt",
    )
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    share(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "bad" in sys.argv)
