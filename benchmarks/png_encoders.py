"""Ways to write a PNG: libpng at several levels against one filter for all rows and another deflate.

    python benchmarks/png_encoders.py FILES                          # enlarged x2 by bicubic, the first 512 pixels of a side
    python benchmarks/png_encoders.py FILES --model edsr-baseline --side 256

Prints seconds and bytes as ratios to those of libpng at level 4, over all files; every way is checked to hold the same pixels.
Each takes its turn in three rounds, of which the fastest counts.
"""

from __future__ import annotations

import argparse
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch

from rayscale.imaging import read_image
from rayscale.imaging.containers.png_chunks import SIGNATURE, make_chunk
from rayscale.inference import Upscaler
from rayscale.options import Options
from rayscale.registry import open_model

Pixels = np.ndarray[Any, Any]
Deflate = Callable[[Any, int], bytes]
_BASE = "libpng 4"


def filter_rows(pixels: Pixels, kind: int) -> Pixels:
    """Rows of bytes with their filter type in front: 0 none, 1 Sub, 2 Up, 3 Average."""
    step = pixels.itemsize * pixels.shape[2]
    ordered = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">"), copy=False))
    rows = ordered.reshape(len(pixels), -1).view(np.uint8)
    left, above = np.zeros_like(rows), np.zeros_like(rows)
    left[:, step:], above[1:] = rows[:, :-step], rows[:-1]
    average = (left & above) + ((left ^ above) >> 1)
    out = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    out[:, 0] = kind
    out[:, 1:] = rows - (np.zeros_like(rows), left, above, average)[kind]
    return out


def by_filter(kind: int, deflate: Deflate, level: int) -> Callable[[Pixels], bytes]:
    """A writer of RGB."""

    def write(pixels: Pixels) -> bytes:
        height, width, _ = pixels.shape
        header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, 2, 0, 0, 0)
        chunks = {b"IHDR": header, b"IDAT": deflate(filter_rows(pixels, kind), level), b"IEND": b""}
        return SIGNATURE + b"".join(make_chunk(name, body) for name, body in chunks.items())

    return write


def ways() -> dict[str, Callable[[Pixels], bytes]]:
    """All that is compared."""
    found: dict[str, Callable[[Pixels], bytes]] = {
        f"libpng {level}": lambda pixels, level=level: bytes(  # type: ignore[misc]
            imagecodecs.png_encode(pixels, level=level)
        )
        for level in (1, 2, 4)
    }
    deflates: dict[str, Deflate] = {
        "libdeflate": lambda data, level: bytes(imagecodecs.deflate_encode(data, level=level)),
        "zlib-ng": lambda data, level: bytes(imagecodecs.zlibng_encode(data, level=level)),
    }
    for name, deflate in deflates.items():
        for kind, filter_name in enumerate(("none", "Sub", "Up", "Average")):
            for level in (1, 2, 3):
                found[f"{filter_name}, {name} {level}"] = by_filter(kind, deflate, level)
    return found


def main() -> None:
    """Enlarge the files and write them in every way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="bicubic")
    parser.add_argument("--side", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    upscaler = Upscaler(open_model(options.model, scale=2).network, Options(scale=2), device="cpu")
    totals = {name: np.zeros(2) for name in ways()}
    for path in options.files:
        source = read_image(path.read_bytes()).pixels[: options.side, : options.side, :3]
        pixels = upscaler.upscale_pixels(np.ascontiguousarray(source))
        seconds = dict.fromkeys(totals, np.inf)
        for _ in range(3):
            for name, write in ways().items():
                start = time.perf_counter()
                data = write(pixels)
                seconds[name] = min(seconds[name], time.perf_counter() - start)
                totals[name][1] += len(data) / 3
                if not np.array_equal(imagecodecs.png_decode(data), pixels):
                    raise SystemExit(f"{name} changes {path}")
        for name, taken in seconds.items():
            totals[name][0] += taken
    print("| | seconds | bytes |\n|---|---|---|")
    for name, (taken, size) in sorted(totals.items(), key=lambda item: item[1][0]):
        print(f"| {name} | {taken / totals[_BASE][0]:.2f} | {size / totals[_BASE][1]:.3f} |")


if __name__ == "__main__":
    main()
