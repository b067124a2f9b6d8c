"""What HTTP and Ray Serve cost on top of the engine: contenders in one run, in rounds that alternate.

    python benchmarks/serve_load.py                                  # engine, uvicorn, app, ray, haproxy; both models
    python benchmarks/serve_load.py --contender engine --contender ray --rounds 20
    python benchmarks/serve_load.py --contender engine --contender ray --contender ray:NAME=VALUE

What the contenders are is said in ``serve_contenders.py``. One client and eight send a PNG of 256 x 256 again and again. On a machine that
others use as well only the ratios of a round mean something: each is taken to the first contender of the same round, and the
medians of rounds are printed. "Cores' work" is the same ratio by the CPU seconds of all processes of a contender, which other
programs do not stretch. Targets: 0.9 of the engine's throughput with eight clients, 15 ms added with one.

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
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import serve_behaviour
from benchmarks.batch_throughput import make_images
from benchmarks.http_load import Load, load, percentile
from benchmarks.serve_contenders import NAMES, PATH, Contender, running

MODELS = ("edsr-baseline", "bicubic")
_ONE_REPLICA = {"autoscaling_config": None, "num_replicas": 1}
_VARIABLES = {"RAYSCALE_SERVE_THREADS": "2", "RAYSCALE_SERVE_ACCESS_LOG": "0"}


def measure(contender: Contender, model: str, concurrency: int, count: int, image: bytes) -> Load:
    """One contender in one round."""
    before = contender.cpu()
    if contender.address:
        made = load(contender.address, PATH.format(model=model), image, concurrency, count)
    else:
        told = contender.ask(model=model, concurrency=concurrency, count=count)
        made = Load(count / told["elapsed"], told["taken"])
    return replace(made, cpu=(contender.cpu() - before) / count)


def compare(options: argparse.Namespace, image: Path) -> None:
    """All rounds, then the table."""
    names = options.contender or list(NAMES)
    found: dict[tuple[str, str, int], list[Load]] = {}
    data = image.read_bytes()
    with running(names, _VARIABLES, _ONE_REPLICA, image) as contenders:
        for name, contender in contenders.items():
            print(f"{name}: first answer after {contender.first_s:.1f} s", flush=True)
        for contender in contenders.values():
            for model in options.model or MODELS:
                measure(contender, model, 8, 8, data)
        for number in range(options.rounds):
            for model in options.model or MODELS:
                for concurrency in (1, 8):
                    # The order of the round before, turned: nobody always follows the same one.
                    turned = list(contenders.items())[:: -1 if number % 2 else 1]
                    for name, contender in turned:
                        count = options.requests * (1 if concurrency == 1 else 4)
                        taken = measure(contender, model, concurrency, count, data)
                        found.setdefault((model, name, concurrency), []).append(taken)
                        print(
                            f"round {number + 1} {model:13} {concurrency} clients {name[:60]:12} {taken.rate:7.2f}/s  "
                            f"median {taken.median * 1e3:6.1f} ms  cpu {taken.cpu * 1e3:6.1f} ms  load {os.getloadavg()[0]:.1f}",
                            flush=True,
                        )
                        if taken.failed:
                            raise SystemExit(f"{taken.failed} requests of {name} failed")
    report(found, names)


def report(found: dict[tuple[str, str, int], list[Load]], names: list[str]) -> None:
    """Medians of the ratios to the first contender, round by round, in Markdown."""
    print(
        "\n| x2, 256 x 256 | rate, 8 clients | cores' work, 8 clients | rate, 1 client | added, median | added, p95 | cores' work added |"
    )
    print("|---|---|---|---|---|---|---|")
    for model in dict.fromkeys(model for model, _, _ in found):
        for name in names:
            alone, eight = (found[model, names[0], count] for count in (1, 8))
            one, many = (found[model, name, count] for count in (1, 8))
            cells = [
                f"{_median(a.rate / b.rate for a, b in zip(many, eight, strict=True)):.2f}",
                f"{_median(b.cpu / a.cpu for a, b in zip(many, eight, strict=True)):.2f}",
                f"{_median(a.rate / b.rate for a, b in zip(one, alone, strict=True)):.2f}",
                *(f"{added * 1e3:.1f} ms" for added in _added(one, alone)),
            ]
            print(f"| {model}, {name} | {' | '.join(cells)} |")


def _added(one: list[Load], alone: list[Load]) -> tuple[float, float, float]:
    """Seconds to an answer beyond those of the first contender: of medians round by round, of the 95th percentiles of all;
    and of the cores."""
    late, early = ([each for load in loads for each in load.taken] for loads in (one, alone))
    return (
        _median(a.median - b.median for a, b in zip(one, alone, strict=True)),
        percentile(late, 95) - percentile(early, 95),
        _median(a.cpu - b.cpu for a, b in zip(one, alone, strict=True)),
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
    parser.add_argument(
        "--requests",
        type=int,
        default=4,
        help="of one client in a round; eight send four times as many",
    )
    parser.add_argument("--side", type=int, default=256, help="of the square image, in pixels")
    serve_behaviour.add_arguments(parser)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {time.strftime('%F %T')}")
    with tempfile.TemporaryDirectory(prefix="serve-load-") as scratch:
        image = Path(scratch, "image.png")
        image.write_bytes(make_images(1, options.side)["0000.png"])
        if not serve_behaviour.run(options, image):
            compare(options, image)


if __name__ == "__main__":
    main()
