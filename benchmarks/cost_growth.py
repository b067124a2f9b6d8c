"""How the cost of an enlargement grows with size, bands and scale: CPU seconds of one thread, as a plot and a table.

    python benchmarks/cost_growth.py --output docs/images/cost_growth.png
    python benchmarks/cost_growth.py --sides 32 48 --rounds 1         # small, to see that it works

EDSR-baseline for sizes and scales, A+ (any number of bands) for bands, bicubic beside both. The fastest of the rounds
counts: CPU seconds of one thread say little of other programs, and the least of them least. For workers see
benchmarks/batch_throughput.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rayscale.inference import Options, Upscaler
from rayscale.models.builtin import open_builtin

Lines = dict[str, dict[float, float]]
"""By name of a line, CPU seconds by what is varied."""


def seconds(model: str, scale: int, side: int, bands: int, rounds: int) -> float:
    """Of one enlargement, the fastest of some."""
    upscaler = Upscaler(
        open_builtin(model).network, Options(scale=scale), device="cpu", calibrate=False
    )
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, bands), np.uint8)
    taken = []
    for _ in range(rounds + 1):
        start = time.process_time()
        upscaler.upscale_pixels(pixels)
        taken.append(time.process_time() - start)
    return min(taken[1:])


def measure(sides: Sequence[int], rounds: int) -> dict[str, Lines]:
    """The three panels."""
    middle = sides[len(sides) // 2]
    return {
        "source pixels": {
            name: {side**2: seconds(name, 2, side, 3, rounds) for side in sides}
            for name in ("edsr-baseline-x2", "bicubic")
        },
        f"bands, {middle} x {middle}": {
            name: {bands: seconds(name, 2, middle, bands, rounds) for bands in (1, 4, 8, 13)}
            for name in ("aplus-x2", "bicubic")
        },
        f"scale, {middle} x {middle}": {
            "edsr-baseline": {
                scale: seconds(f"edsr-baseline-x{scale}", scale, middle, 3, rounds)
                for scale in (2, 3, 4)
            },
            "bicubic": {scale: seconds("bicubic", scale, middle, 3, rounds) for scale in (2, 3, 4)},
        },
    }


def draw(panels: dict[str, Lines], path: Path) -> None:
    """A panel each, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name, points in lines.items():
            axes.loglog(list(points), list(points.values()), marker="o", label=name)
        axes.set_xticks(list(points), [f"{each:g}" for each in points])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(title)
        axes.set_ylabel("CPU seconds, one thread")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 96, 128, 192, 256])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("cost_growth.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    panels = measure(options.sides, options.rounds)
    for title, lines in panels.items():
        for name, points in lines.items():
            print(f"{title}: {name}: " + ", ".join(f"{x:g}: {y:.3f} s" for x, y in points.items()))
    draw(panels, options.output)


if __name__ == "__main__":
    main()
