"""One of several gloo processes: takes steps on its share of a batch and saves what came of it.

``python world.py FOLDER RANK WORLD KIND...``, of share, bad, stop, several, mixed and gan; with ``bad`` the last rank's share has a loss that is
not finite, with ``stop`` it is asked to stop and nobody looks at a step's loss, as on GPUs; with ``several`` a network of
three scales trains on two of them, with ``mixed`` on all in one step, with ``gan`` there are two networks.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rayscale.data import Batch
from rayscale.models.systems import create_model
from rayscale.training.adversarial import AdversarialTrainer
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
        trainer.advance(Batch(lr[mine], hr[mine], scale))
        graded.append([name for name, p in model.named_parameters() if p.grad is not None])
    state = trainer.optimizer.state
    after = {name: p.detach() for name, p in model.named_parameters()}
    moments = {name: len(state[p]) for name, p in model.named_parameters() if p in state}
    outcome = {"before": before, "after": after, "graded": graded, "moments": moments}
    torch.save(outcome, folder / f"{world}-{rank}.pt")


def mixed(folder: Path, rank: int, world: int) -> None:
    config = load_config(
        None,
        ["model.name=mdsr-baseline", "data.batch=6", "precision=float32", f"workers.count={world}"],
    )
    torch.manual_seed(0)
    model = create_model("mdsr-baseline", blocks=1, filters=8)
    trainer = Trainer(config, model, peak=255, rank=rank, world=world)
    mine = slice(rank * 2 // world, (rank + 1) * 2 // world)
    parts = []
    for index, scale in enumerate((2, 3, 4)):
        lr, hr = patches(index, scale)
        parts.append(Batch(lr[:2][mine], hr[:2][mine], scale))
    trainer.advance(*parts)
    grads = {name: p.grad for name, p in model.named_parameters()}
    torch.save({"loss": trainer.mean_loss(), "grads": grads}, folder / f"{world}-{rank}.pt")


def adversaries(folder: Path, rank: int, world: int) -> None:
    overrides = ["data.batch=6", "precision=float32", "model.name=srgan", "model.scale=2"]
    overrides += ["data.patch=8", "adversarial.content=l1", f"workers.count={world}"]
    torch.manual_seed(0)
    model = create_model("srgan", scale=2, blocks=1, filters=8)
    trainer = AdversarialTrainer(
        load_config(None, overrides), model, peak=255, rank=rank, world=world
    )
    mine = slice(rank * 6 // world, (rank + 1) * 6 // world)
    for step in range(2):
        lr, hr = patches(step)
        trainer.advance(Batch(lr[mine], hr[mine]))
    figures = trainer.figures()
    networks = {"generator": model, "discriminator": trainer.discriminator}
    weights = {name: dict(network.named_parameters()) for name, network in networks.items()}
    statistics = dict(model.named_buffers())
    torch.save({**weights, "statistics": statistics, **figures}, folder / f"{world}-{rank}.pt")


def stop(folder: Path, rank: int, world: int) -> None:
    config = load_config(None, ["data.batch=6", "precision=float32", f"workers.count={world}"])
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, blocks=1, filters=8)
    trainer = Trainer(config, model, peak=255, rank=rank, world=world)
    trainer.synchronous = False
    lr, hr = patches(1)
    mine = slice(rank * 6 // world, (rank + 1) * 6 // world)
    stopped = []
    for step in range(3):
        asked = rank == world - 1 and step == 1
        stopped.append(trainer.advance(Batch(lr[mine], hr[mine]), stop=asked))
        if stopped[-1]:
            break
    outcome = {"stopped": stopped, "checked": trainer.check(), "step": trainer.step}
    torch.save(outcome, folder / f"{world}-{rank}.pt")


def share(folder: Path, rank: int, world: int, bad: bool) -> None:
    config = load_config(None, ["data.batch=5", "precision=float32", f"workers.count={world}"])
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, blocks=2, filters=8)
    trainer = Trainer(config, model, peak=255, rank=rank, world=world)
    lr, hr = (part[:5] for part in patches(1))
    mine = slice(rank * 5 // world, (rank + 1) * 5 // world)  # of two workers, 2 and 3
    before = [p.detach().clone() for p in trainer.model.parameters()]
    if bad and rank == world - 1:
        trainer.gain = float("inf")
    try:
        trainer.advance(Batch(lr[mine], hr[mine]))
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


KINDS: dict[str, Callable[[Path, int, int], None]] = {
    "share": functools.partial(share, bad=False),
    "bad": functools.partial(share, bad=True),
    "stop": stop,
    "several": several,
    "mixed": mixed,
    "gan": adversaries,
}


Kinds = Mapping[str, Callable[[Path, int, int], None]]


def main(folder: Path, rank: int, world: int, *names: str, kinds: Kinds = KINDS) -> None:
    if world > 1:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
        )
    for name in names:
        (folder / name).mkdir(exist_ok=True)
        kinds[name](folder / name, rank, world)
    if world > 1:
        dist.destroy_process_group()


class Worlds:
    """One worker, in this process, and two, in processes that take the steps of every kind one after the other."""

    def __init__(
        self, folder: Path, checkout: Path, script: str = "world.py", kinds: Kinds = KINDS
    ) -> None:
        self.folder = folder
        environment = os.environ | {"PYTHONPATH": f"{checkout / 'platform'}:{checkout}"}
        path = str(checkout / "tests" / "training" / script)
        command = [sys.executable, "-W", "error::FutureWarning", path, str(folder)]
        processes = [
            subprocess.Popen([*command, str(rank), "2", *kinds], env=environment)
            for rank in range(2)
        ]
        try:
            assert [process.wait(240) for process in processes] == [0, 0]
        finally:
            for process in processes:
                process.kill()

    def one(self, kind: str, kinds: Kinds = KINDS) -> dict[str, Any]:
        """What a worker alone saved."""
        main(self.folder, 0, 1, kind, kinds=kinds)
        return torch.load(self.folder / kind / "1-0.pt")

    def two(self, kind: str) -> list[dict[str, Any]]:
        """What each of two workers saved."""
        return [torch.load(self.folder / kind / f"2-{rank}.pt") for rank in range(2)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
