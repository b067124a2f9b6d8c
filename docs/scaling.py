"""The plot and the table of docs/scaling.md: gradient exchange against patch throughput, from one GPU to 512.

python docs/scaling.py                       # the published EDSR step on one V100, assumed networks
python docs/scaling.py --measure             # prints the constants of this machine: patches/s, bytes/s, latency
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform")]

WORLDS = [2**power for power in range(10)]
EDSR_BYTES = 4 * 40_729_603
"""Gradients of EDSR x2 of the paper in float32."""
V100 = 10.3
"""EDSR images/s of one V100 (Anthony et al. 2021)."""


@dataclass(frozen=True)
class Machine:
    """``rate``: patches/s of one worker; ``bandwidth``: bytes/s that a worker sends; ``latency``: seconds of a message."""

    rate: float
    bandwidth: float
    latency: float = 2e-5


def exchange_seconds(machine: Machine, size: int, world: int) -> float:
    """A ring all-reduce of ``size`` bytes: 2 (n - 1) messages of 1 / n of it (Patarasuk and Yuan 2009)."""
    messages = 2 * (world - 1)
    return messages * (size / world / machine.bandwidth + machine.latency)


def efficiency(
    machine: Machine, size: int, world: int, share: float, overlap: bool = True
) -> float:
    """Patches/s of ``world`` workers over as many times that of one, each with ``share`` patches in a step.

    The backward pass takes two thirds of a step. With ``overlap`` the exchange hides behind it, as in DDP.
    """
    alone = share / machine.rate
    exchange = exchange_seconds(machine, size, world)
    step = alone / 3 + max(2 * alone / 3, exchange) if overlap else alone + exchange
    return alone / step


def draw(path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for bandwidth in (1e9, 3e9, 12e9):
        for share, style in ((4, "-"), (1, "--")):
            machine = Machine(V100, bandwidth)
            values = [100 * efficiency(machine, EDSR_BYTES, world, share) for world in WORLDS]
            label = f"{bandwidth / 1e9:g} GB/s, {share} patch{'es' * (share > 1)} each"
            axes.plot(WORLDS, values, style, marker=".", label=label)
    axes.set(xscale="log", xlabel="GPUs", ylabel="efficiency, %", ylim=(0, 105))
    axes.set_xticks(WORLDS, map(str, WORLDS))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


EXCHANGE = """
import sys, time, torch, torch.distributed as dist
torch.set_num_threads(1)
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meet", rank=rank, world_size=2)
for count in (1, 10_000_000):
    x = torch.ones(count)
    dist.all_reduce(x)
    started = time.perf_counter()
    for _ in range(10):
        dist.all_reduce(x)
    if rank == 0:
        print((time.perf_counter() - started) / 10)
dist.destroy_process_group()
"""


def measure() -> None:
    """The constants of this machine: EDSR-baseline on the CPU, gloo between two processes over loopback."""
    import torch

    from rayscale.data import Batch
    from rayscale.models.systems import create_model
    from rayscale.training.config import load_config
    from rayscale.training.step import Trainer

    batch = Batch(*(torch.randint(0, 256, (4, 3, n, n), dtype=torch.uint8) for n in (48, 96)), 2)
    trainer = Trainer(
        load_config(None, ["data.batch=4"]), create_model("edsr-baseline", scale=2), peak=255
    )
    trainer.advance(batch)
    started = time.perf_counter()
    for _ in range(3):
        trainer.advance(batch)
    print(f"one worker: {12 / (time.perf_counter() - started):.2f} patches/s")
    with tempfile.TemporaryDirectory() as folder:
        both = [
            subprocess.Popen(
                [sys.executable, "-c", EXCHANGE, folder, str(rank)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        small, large = (float(line) for line in both[0].communicate()[0].split())
        both[1].wait()
    # Two messages of half the numbers each, four bytes a number.
    print(
        f"all-reduce of two: {4e7 / (large - small) / 1e9:.2f} GB/s, {1e6 * small / 2:.0f} us per message"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--measure", action="store_true", help="print the constants of this machine"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images/scaling.png")
    options = parser.parse_args()
    if options.measure:
        measure()
        return
    draw(options.output)
    for bandwidth in (1e9, 3e9, 12e9):
        machine = Machine(V100, bandwidth)
        found = [f"{100 * efficiency(machine, EDSR_BYTES, n, 4):.0f} %" for n in (2, 8, 64, 512)]
        print(f"| {bandwidth / 1e9:g} GB/s | {' | '.join(found)} |")


if __name__ == "__main__":
    main()
