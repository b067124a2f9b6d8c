"""Steps/s of one worker beside the official recipe, in one run: rounds alternate, the ratio of each is printed.

    python benchmarks/train_step.py                                # EDSR-baseline x2, batch 16, LR patch 48
    python benchmarks/train_step.py --system edsr --batch 4 --rounds 3
    python benchmarks/train_step.py --set workers.compile=true     # any setting of a training
    python benchmarks/train_step.py --workers 2                    # two workers of one thread beside one

The official recipe is EDSR-PyTorch's: the same network with the same weights in float32 and NCHW without autocast, L1,
Adam that is not fused. Ours is the step of `rayscale train`, with its guard, and the precision that it takes by itself
where the hardware has bfloat16. Both see the same patches of noise, from memory; the last lines are the median ratio and
what it was measured on.

With ``--workers N``, N processes of one thread, without Ray, share the batch and their gradients (gloo); the ratio is to one
such process with the whole batch. Beside it: N such processes that share nothing, which is what the machine makes of N cores.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
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


def make_ours(options: argparse.Namespace, rank: int = 0, world: int = 1) -> tuple[Trainer, Batch]:
    """The trainer of one worker, and its share of a batch."""
    settings = [f"model.name={options.system}", f"data.batch={options.batch}", "guard.spike=0"]
    config = load_config(None, [*settings, *options.settings])
    torch.manual_seed(0)
    model = create_model(options.system, scale=2)
    side, wide = options.patch, 2 * options.patch
    lr, hr = (
        torch.randint(0, 256, (options.batch // world, 3, n, n), dtype=torch.uint8)
        for n in (side, wide)
    )
    device = pick_device() if world == 1 else torch.device("cpu")
    return Trainer(config, model, peak=255, rank=rank, world=world, device=device), Batch(lr, hr, 2)


def work(options: argparse.Namespace) -> None:
    """One worker of several: prints its steps/s."""
    torch.set_num_threads(1)
    rank, world = options.rank
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{options.meet}", rank=rank, world_size=world
        )
    trainer, batch = make_ours(options, rank, world)
    rate(lambda: trainer.advance(batch), 2, trainer.device)
    print(rate(lambda: trainer.advance(batch), options.steps, trainer.device))


def measure(processes: int, *, together: bool) -> float:
    """Steps/s of so many processes of one thread: of the batch that they share, or the sum of those of their own."""
    with tempfile.TemporaryDirectory() as folder:
        world = processes if together else 1
        running = [
            subprocess.Popen(
                [sys.executable, *sys.argv, "--meet", f"{folder}/meet", "--rank", str(rank if together else 0), str(world)],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(processes)
        ]  # fmt: skip
        found = [float(process.communicate()[0]) for process in running]
    return min(found) if together else sum(found)


def compare_workers(workers: int, rounds: int) -> None:
    """Print a line per round and the medians."""
    ratios, ceilings = [], []
    for number in range(1, rounds + 1):
        one, many, apart = measure(1, together=True), measure(workers, together=True), measure(workers, together=False)  # fmt: skip
        ratios.append(many / one)
        ceilings.append(apart / one)
        print(
            f"round {number}: 1 worker {one:.3f} steps/s, {workers} {many:.3f} steps/s, ratio {ratios[-1]:.2f}; "
            f"{workers} that share nothing {ceilings[-1]:.2f}",
            flush=True,
        )
    print(
        f"median ratio {statistics.median(ratios):.2f}, of what the machine makes of {workers} cores "
        f"{statistics.median(a / b for a, b in zip(ratios, ceilings, strict=True)):.2f}"
    )


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
    parser.add_argument("--workers", type=int, help="compare so many workers with one")
    parser.add_argument("--rank", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--meet", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        work(options)
        return
    if options.workers:
        compare_workers(options.workers, options.rounds)
        return
    trainer, batch = make_ours(options)
    device = trainer.device
    theirs = official(trainer.model, batch, device)

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
