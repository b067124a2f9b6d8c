"""What packing small images into one batch of the network brings, against one call each.

    python benchmarks/small_images.py
    OMP_NUM_THREADS=1 python benchmarks/small_images.py --sides 32 64 --rounds 5

In one process, on pictures in memory, rounds that alternate; prints the median ratio of the times (above 1: packing wins) per side
and precision, and how many of the output values differ. The batch job packs pictures of one shape and of up to 64 x 64
pixels that follow one another, up to 32768 pixels together.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from rayscale.imaging import Image
from rayscale.inference import Upscaler
from rayscale.inference.packs import upscale_pack
from rayscale.options import Options
from rayscale.registry import open_model

if TYPE_CHECKING:
    from rayscale.inference import Precision

PACK_PIXELS = 1 << 15


def compare(upscaler: Upscaler, side: int, rounds: int) -> tuple[int, float, int, int]:
    """Images in a pack, median ratio of times, differing values and all values."""
    rng = np.random.default_rng(0)
    count = max(2, min(16, PACK_PIXELS // side**2))
    channels = upscaler.predictor.model.channels
    images = [
        Image(rng.integers(0, 256, (side, side, channels), dtype=np.uint8)) for _ in range(count)
    ]
    alone = [upscaler.upscale(image).pixels for image in images]
    packed = [image.pixels for image in upscale_pack(upscaler, images)]
    ratios = []
    for _ in range(rounds):
        start = time.perf_counter()
        for image in images:
            upscaler.upscale(image)
        middle = time.perf_counter()
        upscale_pack(upscaler, images)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    differing = sum(int((a != b).sum()) for a, b in zip(alone, packed, strict=True))
    return count, statistics.median(ratios), differing, sum(a.size for a in alone)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="edsr-baseline")
    parser.add_argument("--sides", type=int, nargs="+", default=[16, 32, 48, 64, 96, 128])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    network = open_model(options.model, scale=2).network
    precisions: tuple[Precision, ...] = ("auto", "float32")
    print(f"{options.model} x2, {torch.get_num_threads()} threads")
    for precision in precisions:
        upscaler = Upscaler(network, Options(scale=2, precision=precision), device=options.device)
        for side in options.sides:
            count, ratio, differing, values = compare(upscaler, side, options.rounds)
            print(
                f"{precision:8} {side:4} x {side:<4} {count:3} together: {ratio:.2f} times as fast, "
                f"{differing} of {values} values differ",
                flush=True,
            )


if __name__ == "__main__":
    main()
