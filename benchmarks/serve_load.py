"""What HTTP and Ray Serve cost on top of the engine: contenders in one run, in rounds that alternate.

    python benchmarks/serve_load.py                                  # engine, uvicorn, app, ray, haproxy; both models
    python benchmarks/serve_load.py --contender engine --contender ray --rounds 5 --seconds 10
    python benchmarks/serve_load.py --contender engine --contender ray --contender ray:NAME=VALUE

What the contenders are is said in ``serve_contenders.py``. One client and eight send a PNG of 256 x 256 again and again. On a machine that
others use as well only the ratios of a round mean something: each is taken to the engine of the same round, and the
medians of rounds are printed. Targets: 0.9 of the engine's throughput with eight clients, 15 ms added with one.

    python benchmarks/serve_load.py --overload | --soak 10000 | --fairness | --autoscale

are what ``serve_behaviour.py`` says, on one deployed service.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import serve_behaviour
from benchmarks.batch_throughput import make_images
from benchmarks.http_load import TOOL, Load, load
from benchmarks.serve_contenders import NAMES, PATH, Contender, running

MODELS = ("edsr-baseline", "bicubic")
_ONE_REPLICA = {"autoscaling_config": None, "num_replicas": 1}
_VARIABLES = {"RAYSCALE_SERVE_THREADS": "2", "RAYSCALE_SERVE_ACCESS_LOG": "0"}


def measure(
    contender: Contender, model: str, concurrency: int, seconds: float, image: Path
) -> Load:
    """One contender in one round."""
    if contender.address:
        return load(contender.address, PATH.format(model=model), image, concurrency, seconds)
    told = contender.ask(model=model, concurrency=concurrency, seconds=seconds)
    return Load.of(told["seconds"], told["elapsed"])


def compare(options: argparse.Namespace, image: Path) -> None:
    """All rounds, then the table."""
    names = options.contender or list(NAMES)
    found: dict[tuple[str, str, int], list[Load]] = {}
    with running(names, _VARIABLES, _ONE_REPLICA, image) as contenders:
        for name, contender in contenders.items():
            print(f"{name}: first answer after {contender.first_s:.1f} s", flush=True)
        for contender in contenders.values():
            for model in MODELS:
                measure(contender, model, 8, 3, image)
        for number in range(options.rounds):
            for model in options.model or MODELS:
                for concurrency in (1, 8):
                    # The order of the round before, turned: nobody always follows the same one.
                    turned = list(contenders.items())[:: -1 if number % 2 else 1]
                    for name, contender in turned:
                        taken = measure(contender, model, concurrency, options.seconds, image)
                        found.setdefault((model, name, concurrency), []).append(taken)
                        print(
                            f"round {number + 1} {model:13} {concurrency} clients {name:12} {taken.rate:7.2f}/s  "
                            f"median {taken.p50 * 1e3:6.1f} ms  p95 {taken.p95 * 1e3:6.1f} ms  load {os.getloadavg()[0]:.1f}",
                            flush=True,
                        )
                        if taken.failed:
                            raise SystemExit(f"{taken.failed} requests of {name} failed")
    report(found, names)


def report(found: dict[tuple[str, str, int], list[Load]], names: list[str]) -> None:
    """Medians of the ratios to the engine, round by round, in Markdown."""
    print("\n| x2, 256 x 256 | throughput, 8 clients | 1 client | added, median | added, p95 |")
    print("|---|---|---|---|---|")
    for model in dict.fromkeys(model for model, _, _ in found):
        for name in names:
            alone, eight = (found[model, names[0], count] for count in (1, 8))
            one, many = (found[model, name, count] for count in (1, 8))
            ratio = _median(a.rate / b.rate for a, b in zip(many, eight, strict=True))
            single = _median(a.rate / b.rate for a, b in zip(one, alone, strict=True))
            added = _median(a.p50 - b.p50 for a, b in zip(one, alone, strict=True))
            late = _median(a.p95 - b.p95 for a, b in zip(one, alone, strict=True))
            print(
                f"| {model}, {name} | {ratio:.2f} | {single:.2f} | {added * 1e3:.1f} ms | {late * 1e3:.1f} ms |"
            )


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def main() -> None:
    """Read the command line and run what it asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contender", action="append", help="the first one is what others are compared with")  # fmt: skip
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6, help="of each contender in a round")
    parser.add_argument("--side", type=int, default=256, help="of the square image, in pixels")
    serve_behaviour.add_arguments(parser)
    options = parser.parse_args()
    print(f"load by {TOOL or 'asyncio'}, {os.cpu_count()} cores, {time.strftime('%F %T')}")
    with tempfile.TemporaryDirectory(prefix="serve-load-") as scratch:
        image = Path(scratch, "image.png")
        image.write_bytes(make_images(1, options.side)["0000.png"])
        if not serve_behaviour.run(options, image):
            compare(options, image)


if __name__ == "__main__":
    main()
