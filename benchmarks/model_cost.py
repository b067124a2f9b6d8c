"""What the bundled models cost, measured on this machine and written into their cards, from where docs/zoo.md has it.

    python benchmarks/model_cost.py                       # all of them
    python benchmarks/model_cost.py edsr-baseline-x2 --side 512
    python benchmarks/model_cost.py edsr:2 edsr:4 mdsr:3 --side 64    # systems with fresh weights: printed, nothing written
    make docs-pages                                       # then the leaderboard shows it

Per scale: multiply-accumulates per source megapixel (counted), source megapixels per second (the fastest of the rounds, as
8-bit pictures are enlarged), CPU seconds of all threads per megapixel (of the same round: on a machine that others use these
say more), and the peak of memory in MiB of a process that opens the model and enlarges one picture. Joules per megapixel
are there where Linux lets the process read the counters of the processor (RAPL).
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayscale import strictjson
from rayscale.evaluation.cost import SIDE, count, describe_device
from rayscale.files import replacing
from rayscale.inference import Options, Upscaler
from rayscale.models.builtin import BUNDLED, bundled_names, open_builtin, read_card
from rayscale.models.systems import create_model


def measure(name: str, scale: float, side: int, rounds: int) -> dict[str, Any]:
    """In this process, whose peak of memory it is."""
    system, colon, _ = name.partition(":")
    network = create_model(system, scale=scale) if colon else open_builtin(name).network
    upscaler = Upscaler(network, Options(scale=scale), device="cpu", calibrate=False)
    channels = 3 if network.any_channels else network.channels
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, channels), np.uint8)
    taken = []
    for _ in range(rounds + 1):
        clocks = time.perf_counter(), time.process_time(), joules()
        upscaler.upscale_pixels(pixels)
        after = time.perf_counter(), time.process_time(), joules()
        taken.append([b - a for a, b in zip(clocks, after, strict=True)])
    wall, cpu, energy = min(taken[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << 20 if sys.platform == "darwin" else 1 << 10
    )
    macs = count(network.spec, scale).macs / SIDE**2 * 1e6
    return {
        "gmac_per_mp": round(macs / 1e9, 1),
        "mp_per_s": round(side**2 / 1e6 / wall, 4),
        "cpu_s_per_mp": round(cpu / (side**2 / 1e6), 2),
        **({"joules_per_mp": round(energy / (side**2 / 1e6), 1)} if energy else {}),
        "mib": round(peak),
        "side": side,
        "device": describe_device(torch.device("cpu")),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def joules() -> float:
    """What the processor packages have used since some time, 0 where nobody says; the counters wrap around now and then."""
    total = 0
    for counter in Path("/sys/class/powercap").glob("intel-rapl:?/energy_uj"):
        try:
            total += int(counter.read_text())
        except OSError:
            return 0.0
    return total / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="bundled models; all without any")
    parser.add_argument("--side", type=int, default=256, help="of the picture, in source pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=float, metavar="SCALE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(
            strictjson.dumps(measure(options.names[0], options.one, options.side, options.rounds))
        )
        return
    for name in options.names or bundled_names():
        _, colon, fresh = name.partition(":")
        card = {} if colon else read_card(name)
        card["cost"] = {}
        for scale in [float(fresh)] if colon else card["specification"]["scales"]:
            words = [name, "--side", str(options.side), "--rounds", str(options.rounds)]
            told = subprocess.run(
                [sys.executable, __file__, *words, "--one", str(scale)],
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
            card["cost"][f"{scale:g}"] = json.loads(told)
            print(name, f"x{scale:g}", card["cost"][f"{scale:g}"], flush=True)
        if colon:
            continue
        with replacing(BUNDLED / f"{name}.json") as file:
            file.write((strictjson.dumps(card, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
