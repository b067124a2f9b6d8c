"""What back-projection leaves of the difference between a shrunk result and its source, by iterations.

    python benchmarks/consistency.py Set5/x2 Set14/x2 --model edsr-baseline-x2 --scale 2
    python benchmarks/consistency.py tiles --model bicubic --scale 2.5 --iterations 0 10 30

A folder (or s3:// prefix) holds HR/ and LR/ as for ``rayscale evaluate``. Residuals are in grey levels, of the results as
they are stored: the largest of a set, the median of the largest of each image, and the root mean square over all. Then
PSNR by the protocol edsr-paper-y, and seconds per image of the back-projection alone, beside those of the network.
Images of other channels than the model takes are left out.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from rayscale.evaluation import read_pairs
from rayscale.imaging.levels import Levels
from rayscale.imaging.metrics import EDSR_PAPER, psnr
from rayscale.inference import Upscaler
from rayscale.inference.backprojection import TOLERANCE, Residual, back_project, residual
from rayscale.options import Options
from rayscale.registry import open_model


def measure(folder: str, upscaler: Upscaler, counts: list[int]) -> None:
    """Print a line for each number of iterations."""
    value_range, scale = upscaler.predictor.model.spec.value_range, upscaler.scale
    found: dict[int, list[tuple[Residual, float, float]]] = {count: [] for count in counts}
    network: list[float] = []
    for pair in read_pairs(folder, scale):
        if (
            pair.lr.channels != upscaler.predictor.model.channels
            and not upscaler.predictor.model.any_channels
        ):
            continue
        levels, dtype = Levels.of_type(pair.lr.pixels.dtype), pair.lr.pixels.dtype
        x = torch.tensor(levels.to_network(pair.lr.pixels, value_range).transpose(2, 0, 1)[None])
        start = time.perf_counter()
        y = upscaler.predictor.predict(x)
        network.append(time.perf_counter() - start)
        black, white = torch.zeros(1, 1, 1), torch.full((1, 1, 1), value_range)
        unit = torch.from_numpy(levels.unit(value_range, dtype)).reshape(-1, 1, 1)
        for count in counts:
            start = time.perf_counter()
            z = back_project(y, x, scale, TOLERANCE * unit, (black, white), count)
            seconds = time.perf_counter() - start
            pixels = levels.to_values(z[0].permute(1, 2, 0).numpy(), value_range, dtype)
            left = residual(pixels, pair.lr.pixels, scale)
            found[count].append((left, psnr(pixels, pair.hr.pixels, EDSR_PAPER, scale), seconds))
    print(f"{folder}: {len(network)} images, network {statistics.mean(network):.2f} s")
    print("iterations  max  median max    RMS   PSNR dB  s")
    for count, rows in found.items():
        total = sum((left for left, _, _ in rows), Residual())
        middle = statistics.median(left.maximum for left, _, _ in rows)
        quality = statistics.mean(decibels for _, decibels, _ in rows)
        seconds = statistics.mean(taken for _, _, taken in rows)
        print(
            f"{count:10d} {total.maximum:5.2f} {middle:10.2f} {total.rms:8.3f} {quality:8.3f} {seconds:5.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--model", default="edsr-baseline-x2")
    parser.add_argument("--scale", type=float, default=2)
    parser.add_argument("--iterations", type=int, nargs="+", default=[0, 1, 2, 3, 5, 10, 20, 30])
    options = parser.parse_args()
    upscaler = Upscaler(
        open_model(options.model, scale=options.scale).network,
        Options(scale=options.scale, precision="float32"),
    )
    for folder in options.folders:
        measure(folder, upscaler, options.iterations)


if __name__ == "__main__":
    main()
