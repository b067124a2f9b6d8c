"""What the command line costs before it does any work: the help, and one small picture from start to end.

    python benchmarks/cli_start.py
    python benchmarks/cli_start.py --rounds 9

Two commands beside two yardsticks, each a process of its own: ``python -c pass`` is what Python costs by itself, ``import
torch`` what no picture can do without. Rounds alternate; of each the median counts. Targets on 2 cores: ``rayscale --help``
under 0.5 s, ``rayscale upscale`` of a PNG of 256 x 256 by the default model under 6 s. Seconds depend on the machine and
its load; the ratios hold elsewhere too.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256
TARGETS = {"rayscale --help": 0.5, "rayscale upscale": 6.0}


def seconds(command: list[str]) -> float:
    """The time of one process; CalledProcessError when it fails."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def measure(rounds: int) -> dict[str, float]:
    """The median seconds of each command."""
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "in.png"), Path(scratch, "out.png")
        noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(source)
        python = [sys.executable]
        commands = {
            "python -c pass": [*python, "-c", "pass"],
            "import torch": [*python, "-c", "import torch"],
            "rayscale --help": [*python, "-m", "rayscale", "--help"],
            "rayscale upscale": [*python, "-m", "rayscale", "upscale", str(source), str(target)],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(seconds(command))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    medians = measure(parser.parse_args().rounds)
    bare, torch = medians["python -c pass"], medians["import torch"]
    print(f"{'command':18} {'seconds':>8} {'/ pass':>8} {'/ torch':>8}  target")
    for name, value in medians.items():
        target = f"{TARGETS[name]:g} s" if name in TARGETS else ""
        print(f"{name:18} {value:8.2f} {value / bare:8.1f} {value / torch:8.2f}  {target}")


if __name__ == "__main__":
    main()
