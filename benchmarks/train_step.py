"""Steps/s of one worker beside the official recipe, in one run: rounds alternate, the ratio of each is printed.

    python benchmarks/train_step.py                                # EDSR-baseline x2, batch 16, LR patch 48
    python benchmarks/train_step.py --system edsr --batch 4 --rounds 3
    python benchmarks/train_step.py --set workers.compile=true     # any setting of a training

The official recipe is EDSR-PyTorch's: the same network with the same weights in float32 and NCHW without autocast, L1,
Adam that is not fused. Ours is the step of `rayscale train`, with its guard, and the precision that it takes by itself
where the hardware has bfloat16. Both see the same patches of noise, from memory; the last lines are the median ratio and
what it was measured on.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import l1_loss

from rayscale.data import Batch
from rayscale.evaluation.cost import describe_device
from rayscale.inference.device import pick_device
from rayscale.models.systems import create_model
from rayscale.training.config import load_config
from rayscale.training.step import Trainer


def official(model: torch.nn.Module, batch: Batch, device: torch.device) -> Callable[[], None]:
    """A step of EDSR-PyTorch."""
    model = copy.deepcopy(model).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=False, foreach=False)

    def step() -> None:
        lr, hr = (pixels.to(device).float() for pixels in batch[:2])
        optimizer.zero_grad()
        loss = l1_loss(model(lr), hr)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def rate(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Steps/s."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", default="edsr-baseline")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=48, help="side in LR pixels")
    parser.add_argument("--steps", type=int, default=5, help="steps of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    options = parser.parse_args()
    device = pick_device()
    settings = [f"model.name={options.system}", f"data.batch={options.batch}", "guard.spike=0"]
    config = load_config(None, [*settings, *options.settings])
    torch.manual_seed(0)
    model = create_model(options.system, scale=2)
    side, wide = options.patch, 2 * options.patch
    lr, hr = (
        torch.randint(0, 256, (options.batch, 3, n, n), dtype=torch.uint8) for n in (side, wide)
    )
    batch = Batch(lr, hr, 2)
    theirs = official(model, batch, device)
    trainer = Trainer(config, model, peak=255, device=device)

    def ours() -> None:
        trainer.advance(batch)

    for step in (theirs, ours):
        rate(step, 2, device)
    ratios = []
    for number in range(1, options.rounds + 1):
        base, own = (rate(step, options.steps, device) for step in (theirs, ours))
        ratios.append(own / base)
        print(
            f"round {number}: official {base:.3f} steps/s, ours {own:.3f} steps/s, ratio {ratios[-1]:.2f}",
            flush=True,
        )
    precision = str(trainer.dtype).removeprefix("torch.")
    print(f"median ratio {statistics.median(ratios):.2f} ({precision}, {describe_device(device)})")


if __name__ == "__main__":
    main()
