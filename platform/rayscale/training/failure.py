"""What a run leaves behind when its loss is not finite: the batch, the layer, and the command that goes on."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayscale.data import Batch
from rayscale.training.run import CONFIG, FAILURES, Run
from rayscale.training.step import Trainer


def explain(run: Run, trainer: Trainer, step: int, batches: list[Batch]) -> str:
    """Save this worker's part of the batch of ``step`` (from 0), and say where, which layer failed, and the way on.

    ``torch.load(file, weights_only=True)`` gives ``step``, ``rank`` and ``batches``, a list of ``lr``, ``hr`` (integers)
    and ``scale``.
    """
    name = f"{FAILURES}/step-{step + 1:08d}-rank-{trainer.rank}.pt"
    parts = [dict(zip(("lr", "hr", "scale"), batch, strict=True)) for batch in batches]
    with tempfile.TemporaryDirectory(prefix="rayscale-") as temporary:
        path = Path(temporary, "batch.pt")
        torch.save({"step": step, "rank": trainer.rank, "batches": parts}, path)
        run.store.write_file(name, path)
    layer = _find_layer(trainer, batches)
    found = f"The first layer with such an output is {layer}. " if layer else ""
    return f"{found}The batch is kept in {run.store.locate(name)}. {way_on(run)}"


def way_on(run: Run) -> str:
    """The command that trains on from the newest checkpoint at half the learning rate."""
    steps = run.checkpoints.steps()
    if not steps:
        return "It had no checkpoint yet"
    settings = {
        "model.warm_start": run.checkpoints.locate_weights(steps[-1]),
        "optimizer.lr": f"{run.config.optimizer.lr / 2:g}",
        "run.name": f"{run.config.run.name}-again"[:100],
    }
    words = [f"--config {shlex.quote(run.store.locate(CONFIG))}"]
    words += [f"--set {shlex.quote(f'{key}={value}')}" for key, value in settings.items()]
    command = " ".join(["rayscale train", *words])
    return f"To go on from the weights of step {steps[-1]} at half the rate: {command}"


def _find_layer(trainer: Trainer, batches: list[Batch]) -> str | None:
    """The first layer, in the order of computation, whose output is not finite; the weights are those before the step."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(f"{name} ({type(module).__name__})")

        return hook

    leaves = [(k, m) for k, m in trainer.model.named_modules() if not list(m.children())]
    hooks = [module.register_forward_hook(look(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            for batch in batches:
                trainer.predict(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
