"""Memory and time of a GeoTIFF on disk, by the command a user types, for scenes of growing size.

    python benchmarks/scene_memory.py
    python benchmarks/scene_memory.py --megapixels 1 4 --model edsr-baseline-x2
    python benchmarks/scene_memory.py --megapixels 100 --folder /data/scratch

Each scene has three bands of uint16 (tiled, deflate, on the ground), made window by window. ``rayscale upscale`` runs on it
in a process of its own, and the peak of its resident memory is what the kernel kept: VmHWM of every process of
the tree, added up. Disk needed in ``--folder``: some 70 bytes per pixel of the largest scene.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

SIDE = 1024
PAUSE_S = 0.05
LIMIT_MIB = 1536
"""Of a scene of 100 megapixels at x2."""


@dataclass(frozen=True)
class Row:
    """One run: the model, megapixels of the source, seconds, and the peak of resident memory in MiB."""

    model: str
    megapixels: float
    seconds: float
    peak_mib: float

    def __str__(self) -> str:
        per_pixel = self.seconds / self.megapixels
        return (
            f"| {self.model} | {self.megapixels:.1f} | {self.seconds:.1f} | {per_pixel:.2f} "
            f"| {self.peak_mib:.0f} |"
        )


def make_scene(path: Path, megapixels: float) -> float:
    """A square scene of about so many megapixels; returns how many it has."""
    side = math.isqrt(round(megapixels * 1e6))
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint16", "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2, "zlevel": 1,
        "interleave": "pixel", "crs": "EPSG:32632", "transform": from_origin(5e5, 5.6e6, 10, 10),
        "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as scene:
        for top in range(0, side, SIDE):
            for left in range(0, side, SIDE):
                height, width = min(SIDE, side - top), min(SIDE, side - left)
                random = np.random.default_rng([top, left])
                y, x = np.indices((height, width)) + np.array([top, left])[:, None, None]
                relief = 4000 + 2000 * np.sin(x / 37) + 1500 * np.cos(y / 23)
                bands = relief + random.normal(0, 60, (3, height, width))
                scene.write(bands.astype(np.uint16), window=Window(left, top, width, height))
    return side * side / 1e6


def peak_of(command: list[str]) -> tuple[float, float]:
    """Run a command; its seconds, and the peaks of resident memory of its processes together, in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    peaks: dict[int, int] = {}
    while True:
        # The kernel's own record of the parent comes with its end; children are looked at while they run.
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                peaks[child.pid] = max(peaks.get(child.pid, 0), high_water(child.pid))
        time.sleep(PAUSE_S)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, (usage.ru_maxrss + sum(peaks.values())) / 1024


def high_water(pid: int) -> int:
    """VmHWM of a process in KiB, 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def measure(folder: Path, megapixels: float, models: list[str], scale: float) -> list[Row]:
    """Every model on one scene, which is gone afterwards."""
    source, target = folder / "scene.tif", folder / "large.tif"
    size = make_scene(source, megapixels)
    rows = []
    for model in models:
        command = [sys.executable, "-m", "rayscale", "upscale", str(source), str(target)]
        seconds, peak = peak_of([*command, "--model", model, "--scale", f"{scale:g}"])
        rows.append(Row(model, size, seconds, peak))
        target.unlink()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 25, 100])
    parser.add_argument(
        "--model", action="append", help="bicubic; edsr-baseline-x2 as well up to 4"
    )
    parser.add_argument("--scale", type=float, default=2)
    parser.add_argument("--folder", type=Path, help="where the scenes lie meanwhile")
    options = parser.parse_args()
    print("| model | megapixels | seconds | s/MP | peak MiB |\n|---|---|---|---|---|")
    for megapixels in options.megapixels:
        small = ["bicubic", "edsr-baseline-x2"] if megapixels <= 4 else ["bicubic"]
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for row in measure(Path(folder), megapixels, options.model or small, options.scale):
                print(row, flush=True)
    print(
        f"\nTarget: {LIMIT_MIB} MiB at most for 100 megapixels at x2, whatever the model; s/MP constant."
    )


if __name__ == "__main__":
    main()
