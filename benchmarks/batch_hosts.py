"""What more hosts bring a batch: images/s on 1, 2 and 3 hosts of one core each, as a share of linear.

    python benchmarks/batch_hosts.py                      # as many hosts as there are cores, 3 at most; two rounds
    python benchmarks/batch_hosts.py --images 24 --rounds 1 --hosts 2

Each host is a set of namespaces held to a core of its own (``infra/lab``; needs root): network, Ray node and one worker. The S3
server, the head and the driver take what they need of the same cores, as there are no others; so the last host costs the first
ones a little. Timed while every host has work. Beside it, the network alone in as many processes: what the machine makes
of more cores. Target: 0.9 of linear.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.batch_throughput import engines, make_images
from infra.lab.hosts import Lab
from infra.lab.namespaces import lacking

from rayscale.storage import connect
from rayscale.storage.s3_client import get_client

BUCKET, MOST = "batch-hosts", 3
DRIVER = """
import sys
from rayscale.batch import upscale_bucket
from rayscale.options import Options

def tick(progress):
    print(progress.finished, progress.seconds, flush=True)

summary = upscale_bucket(sys.argv[1], sys.argv[2], model=sys.argv[3], device="cpu", options=Options(scale=2), progress=tick)
sys.exit(summary.exit_code)
"""


def rate(lab: Lab, hosts: int, model: str, number: int) -> float:
    """Images/s of the batch while all hosts have work."""
    log = f"{hosts}-{number}.log"
    target = f"s3://{BUCKET}/out-{hosts}-{number}"
    command = [sys.executable, "-c", DRIVER, f"s3://{BUCKET}/in", target, model]
    code = lab.start("host-1", command, log).wait()
    lines = (lab.folder / log).read_text().splitlines()
    if code:
        raise SystemExit(f"the batch failed: {lines[-1] if lines else code}")
    ticks = []
    for line in lines:
        finished, _, seconds = line.partition(" ")
        if finished.isdigit():
            ticks.append((int(finished), float(seconds)))
    # The first tick comes before the workers, each later one ends a block; hosts begin and end at different times.
    if len(ticks) < 4 * hosts + 2:
        raise SystemExit("too few images to time: give --images more")
    (done, start), (all_, end) = ticks[2 * hosts], ticks[-1 - hosts]
    return (all_ - done) / (end - start)


def measure(folder: Path, model: str, files: dict[str, bytes], hosts: int, number: int) -> float:
    """The rate on so many hosts of a new lab."""
    cores = sorted(os.sched_getaffinity(0))
    with Lab(folder) as lab:
        lab.start_store("s3")
        for index in range(hosts):
            lab.add(f"host-{index + 1}", core=cores[index % len(cores)], wait=index == 0)
        lab.await_ray(*(name for name in lab.hosts if name != "store"))
        os.environ.update(lab.variables)
        get_client().create_bucket(Bucket=BUCKET)
        source = connect(f"s3://{BUCKET}/in")
        for key, data in files.items():
            source.write(key, data)
        return rate(lab, hosts, model, number)


def share_of_linear(many: list[float], one: list[float], hosts: int) -> float:
    """The median over rounds."""
    return statistics.median(a / (hosts * b) for a, b in zip(many, one, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--model", default="edsr-baseline")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--hosts", type=int, default=min(MOST, cores), help="at most")
    options = parser.parse_args()
    if reason := lacking():
        print(f"no hosts: {reason}", file=sys.stderr)
        return 2
    files = make_images(options.images, options.side)
    rates: dict[int, list[float]] = {}
    alone: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="batch-hosts-") as folder:
        for number in range(options.rounds):
            for hosts in range(1, options.hosts + 1):
                alone.setdefault(hosts, []).append(engines(options.model, files, hosts))
                place = Path(folder, f"{hosts}-{number}")
                rates.setdefault(hosts, []).append(
                    measure(place, options.model, files, hosts, number)
                )
                print(
                    f"{hosts} hosts: {rates[hosts][-1]:.3f} images/s", file=sys.stderr, flush=True
                )
    print("| hosts | images/s | share of linear | of the network alone |")
    print("|---|---|---|---|")
    for hosts, measured in rates.items():
        share = share_of_linear(measured, rates[1], hosts)
        network = share_of_linear(alone[hosts], alone[1], hosts)
        shared = " (hosts share cores)" if hosts > cores else ""
        print(
            f"| {hosts}{shared} | {statistics.median(measured):.2f} | {share:.2f} | {network:.2f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
