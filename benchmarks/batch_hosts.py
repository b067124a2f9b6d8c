"""What more hosts bring a batch: images/s on 1, 2 and 3 hosts of one core each, as a share of linear.

    python benchmarks/batch_hosts.py                      # as many hosts as there are cores, 3 at most; two rounds
    python benchmarks/batch_hosts.py --quota 0.6          # three hosts of 0.6 cores each, on a machine of two
    python benchmarks/batch_hosts.py --images 24 --rounds 1 --hosts 2         # 24 images for each host

Each host is a set of namespaces (``infra/lab``; needs root) with network, Ray node and one worker, held to a core of its own or to
a quota of CPU time, which others of the machine cannot take away. S3 server, head and driver stand apart: without a quota they take what
they need of the same cores, so the last host costs the first ones a little; beside it is then the network alone in as many
processes, what the machine makes of more cores. Timed from when the last host begins to work until the first has nothing left, as
their processes say: at half a core a worker needs half a minute to start. Target: 0.9 of linear.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import islice, product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.batch_throughput import engines, make_images
from infra.lab.hosts import Lab
from infra.lab.namespaces import lacking
from infra.lab.quota import Quotas

from rayscale.storage import connect
from rayscale.storage.s3_client import get_client

BUCKET, MOST = "batch-hosts", 3
DRIVER = """
import sys
import time
from rayscale.batch import upscale_bucket
from rayscale.options import Options

def tick(progress):
    print(progress.finished, time.time(), flush=True)

summary = upscale_bucket(sys.argv[1], sys.argv[2], model=sys.argv[3], device="cpu", options=Options(scale=2), progress=tick)
sys.exit(summary.exit_code)
"""


def rate(lab: Lab, hosts: int, model: str, number: int) -> float:
    """Images/s of the batch while all hosts have work."""
    log = f"{hosts}-{number}.log"
    target = f"s3://{BUCKET}/out-{hosts}-{number}"
    command = [sys.executable, "-c", DRIVER, f"s3://{BUCKET}/in", target, model]
    process = lab.start("head", command, log)
    busy: list[float] = []  # when every host worked
    while process.poll() is None:
        # Ray writes into its title that a worker has a block in hand.
        if all(lab.find(").submit", f"host-{index + 1}") for index in range(hosts)):
            busy.append(time.time())
        time.sleep(0.2)
    lines = (lab.folder / log).read_text().splitlines()
    if process.returncode:
        raise SystemExit(f"the batch failed: {lines[-1] if lines else process.returncode}")
    ticks = [(int(words[0]), float(words[1])) for words in map(str.split, lines) if words[0].isdigit()]  # fmt: skip
    ticks = [tick for tick in ticks if busy and busy[0] <= tick[1] <= busy[-1]]
    if len(ticks) < 4 * hosts:
        raise SystemExit("too few images to time: give --images more")
    (done, start), (all_, end) = ticks[0], ticks[-1]
    return (all_ - done) / (end - start)


def measure(
    folder: Path,
    model: str,
    files: dict[str, bytes],
    hosts: int,
    number: int,
    quotas: Quotas | None,
) -> float:
    """The rate on so many hosts of a new lab."""
    cores = sorted(os.sched_getaffinity(0))
    with Lab(folder) as lab:
        lab.start_store("s3")
        lab.add("head", cpus=0)
        for index in range(hosts):
            name, core = f"host-{index + 1}", str(cores[index % len(cores)])
            lab.add(name, held=quotas.enter(name) if quotas else ["taskset", "-c", core])
        if quotas:
            quotas.limit()
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
    parser.add_argument("--images", type=int, default=40, help="for each host")
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--model", default="edsr-baseline")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quota", type=float, help="cores that each host has the time of")
    parser.add_argument(
        "--hosts", type=int, help="at most (default: 3; without a quota no more than cores)"
    )
    options = parser.parse_args()
    most = options.hosts or (MOST if options.quota else min(MOST, cores))
    if options.quota and options.quota * most > cores:
        parser.error(f"{most} hosts of {options.quota:g} cores do not fit a machine of {cores}")
    if reason := lacking():
        print(f"no hosts: {reason}", file=sys.stderr)
        return 2
    everything = make_images(options.images * most, options.side)
    rates: dict[int, list[float]] = {}
    alone: dict[int, list[float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="batch-hosts-") as folder,
        Quotas(f"rs-batch-hosts-{os.getpid()}", options.quota)
        if options.quota
        else nullcontext() as quotas,
    ):
        for number, hosts in product(range(options.rounds), range(1, most + 1)):
            files = dict(islice(everything.items(), options.images * hosts))
            if not options.quota:
                alone.setdefault(hosts, []).append(engines(options.model, files, hosts))
            place = Path(folder, f"{hosts}-{number}")
            rate_ = measure(place, options.model, files, hosts, number, quotas)
            rates.setdefault(hosts, []).append(rate_)
            print(f"{hosts} hosts: {rate_:.3f} images/s", file=sys.stderr, flush=True)
    print("| hosts | images/s | share of linear | of the network alone |")
    print("|---|---|---|---|")
    for hosts, measured in rates.items():
        share = share_of_linear(measured, rates[1], hosts)
        network = f"{share_of_linear(alone[hosts], alone[1], hosts):.2f}" if alone else "-"
        shared = " (hosts share cores)" if hosts > cores and not options.quota else ""
        print(f"| {hosts}{shared} | {statistics.median(measured):.2f} | {share:.2f} | {network} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
