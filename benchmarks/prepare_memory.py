"""Memory and speed of cutting one large source: ``write_shard``, the work of one task of ``rayscale prepare``.

    python benchmarks/prepare_memory.py
    python benchmarks/prepare_memory.py --side 4000 --megapixels 16

A band of 16 bits as Sentinel-2 has them (10980 x 10980, a tiled GeoTIFF) and an RGB picture of 100 megapixels as PNG, JPEG
and GeoTIFF, each in a process of its own with one thread. The peak is what the kernel kept (VmHWM), Python and libraries
among it; MB are of HR pixels that were read.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from rayscale import strictjson

STRIP = 512
LIMIT_MIB = 1024


def make_rows(top: int, height: int, side: int, bands: int, dtype: str) -> np.ndarray:
    """Rows of a made scene ``(bands, height, side)``: relief with a little noise."""
    random = np.random.default_rng(top)
    y, x = np.indices((height, side), np.float32) + np.array([top, 0], np.float32)[:, None, None]
    relief = 0.45 + 0.2 * np.sin(x / 37) + 0.2 * np.cos(y / 23)
    white = 10_000 if dtype == "uint16" else 255
    noise = random.normal(0, 0.01, (bands, height, side)).astype(np.float32)
    return np.asarray(((relief + noise).clip(0, 1) * white).astype(dtype))


def make_scene(path: Path, side: int, bands: int, dtype: str) -> None:
    """A GeoTIFF, written strip by strip."""
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": bands, "dtype": dtype, "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2, "zlevel": 1,
        "crs": "EPSG:32632", "transform": from_origin(5e5, 5.6e6, 10, 10),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as scene:
        for top in range(0, side, STRIP):
            height = min(STRIP, side - top)
            rows = make_rows(top, height, side, bands, dtype)
            scene.write(rows, window=Window(0, top, side, height))


def make_picture(path: Path, side: int) -> None:
    """An RGB picture, in the format of its ending."""
    pixels = np.empty((side, side, 3), np.uint8)
    for top in range(0, side, STRIP):
        height = min(STRIP, side - top)
        pixels[top : top + height] = make_rows(top, height, side, 3, "uint8").transpose(1, 2, 0)
    PIL.Image.fromarray(pixels).save(path, quality=92)


def cut(folder: Path, key: str, channels: int, bits: int) -> dict[str, float]:
    """One task on one source, in this process: seconds, MB of pixels, peak MiB."""
    from rayscale.data import PrepareConfig
    from rayscale.data.tasks import ShardTask, write_shard

    config = PrepareConfig(levels=(0, 10_000) if bits == 16 else None)
    task = ShardTask(
        name="00000-000000000000", source=str(folder), target=str(folder / "set"), keys=(key,),
        config=config, channels=channels, bits=16 if bits == 16 else 8, measure="",
    )  # fmt: skip
    start = time.perf_counter()
    record = write_shard(task)
    seconds = time.perf_counter() - start
    if record.failures or not record.shards:
        raise SystemExit(f"{key}: {record.failures}")
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {
        "seconds": seconds,
        "mb": record.pixels * channels * bits / 8e6,
        "peak": peak / 1024,
        "shards": len(record.shards),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=10_980, help="of the 16-bit band")
    parser.add_argument("--megapixels", type=float, default=100, help="of the RGB picture")
    parser.add_argument("--folder", type=Path, help="where the files lie meanwhile")
    parser.add_argument(
        "--cut", nargs=3, metavar=("KEY", "CHANNELS", "BITS"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.cut:
        key, channels, bits = options.cut
        print(strictjson.dumps(cut(options.folder, key, int(channels), int(bits))))
        return
    square = math.isqrt(round(options.megapixels * 1e6))
    sources = {
        "band.tif": (options.side, 1, 16), "rgb.tif": (square, 3, 8), "rgb.png": (square, 3, 8),
        "rgb.jpg": (square, 3, 8),
    }  # fmt: skip
    print("| source | pixels | seconds | MB/s | peak MiB | shards |\n|---|---|---|---|---|---|")
    for key, (side, channels, bits) in sources.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder, key)
            if path.suffix == ".tif":
                make_scene(path, side, channels, f"uint{bits}")
            else:
                make_picture(path, side)
            command = [sys.executable, __file__, "--folder", folder, "--cut"]
            limit = {"RAYSCALE_MAX_INPUT_PIXELS": str(10**9), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [*command, key, str(channels), str(bits)],
                check=True, capture_output=True, text=True, env={**os.environ, **limit},
            )  # fmt: skip
            row = strictjson.loads(done.stdout)
        print(
            f"| {key} | {side} x {side} | {row['seconds']:.1f} | {row['mb'] / row['seconds']:.1f} "
            f"| {row['peak']:.0f} | {row['shards']:.0f} |",
            flush=True,
        )
    print(f"\nTarget: {LIMIT_MIB} MiB at most for each.")


if __name__ == "__main__":
    main()
