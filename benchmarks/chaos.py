"""Batch, training and service side by side on hosts that fail: nothing is lost.

    python benchmarks/chaos.py                           # 10 minutes of faults
    python benchmarks/chaos.py --seconds 120 --seed 3

Makes a store (S3, MLflow), a head and two hosts out of namespaces (``infra/lab``; needs root). There, at the same time, an elastic
training makes its steps, one batch after the other enlarges a bucket of small images with a scene among them, and the service
with two ingresses and two model replicas answers clients behind a load balancer. Every few seconds something fails: a worker of each
of the three is killed, a host loses its power or gets a notice and goes, and comes back, S3 resets connections, cuts bodies or
is gone, MLflow is gone, the drivers of training and batch are killed and started again. The order is random, but nothing fails again
before all else has. Then all is well again, and what was begun goes to its end:

- the training has the losses of one undisturbed process, and every row once in each epoch;
- every batch has one output for each input, with the bytes of an undisturbed process, its manifest says so, and nothing else is left;
- every request got the right bytes in the end. Before, it may have been told when to come again (429 or 503 with Retry-After),
  or have broken off at a host that lost its power; nothing else.

Prints a summary in Markdown. Exit codes: 0 nothing was wrong, 1 something was, 2 this machine can have no hosts.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import train_kill_run
from benchmarks.kill_report import compare, rest_of
from benchmarks.undisturbed import SCENE, Expected, enlarged, make_images, reference
from infra.lab import service
from infra.lab.faults import Faults, Outage, kill_driver
from infra.lab.hosts import Lab
from infra.lab.namespaces import LabError, lacking
from infra.lab.service import Attempt, Balancer
from infra.lab.training import Training

from rayscale.errors import RayscaleError
from rayscale.serving.deploy import CONFIG
from rayscale.storage import Store, connect
from rayscale.storage.s3_client import get_client

HEAD, OTHERS = "head", ("host-1", "host-2")  # the drivers are on the head, which stays
CPUS = 2  # of each: two for replicas, two for the training, two for the batch
BUCKET, IMAGES, SCENE_MEGAPIXELS, SCENE_PIXELS = "chaos", 60, 2.0, 1_000_000
MODEL = "bicubic"
DECK = (
    "worker training", "worker batch", "worker service", "driver training", "driver batch",
    "host", "host", "notice", "s3 reset", "s3 cut", "s3 gone", "mlflow gone",
)  # fmt: skip
SHORTEST_S, LONGEST_S = 5.0, 30.0  # between two faults
STEPS_PER_S = 3.0  # more than a training makes beside all else
FINISH_S = 900.0  # for what was begun, once all is well
DRIVER_STARTS = 40  # of one batch
AGAIN = (429, 503)
ACTORS = ("UpscaleActor", "SceneActor", "assemble_scene")
DEPLOYMENTS = {"Ingress": 2, "Upscaling": 2}


@dataclass
class Report:
    """What happened, and what of it must not have."""

    training: train_kill_run.Report
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    batch_drivers: int = 0
    outputs: int = 0
    requests: int = 0
    answered: Counter[str] = field(default_factory=Counter)  # by host
    refused: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    unheard: int = 0
    slowest_s: float = 0.0
    memory: int = 0
    wrong: list[str] = field(default_factory=list)

    def to_markdown(self) -> str:
        """A table, and what was wrong below it."""
        made = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        refused = ", ".join(f"{count} by {status}" for status, count in self.refused.items())
        answered = ", ".join(f"{n} answered by {host}" for host, n in sorted(self.answered.items()))
        training = self.training
        wrong = self.wrong + training.wrong
        rows = {
            "seconds": f"{self.seconds:.0f}",
            "faults": f"{self.faults.total()} ({made})",
            "training: steps": f"{training.steps}, {training.repeated} made again",
            "training: drivers, groups of workers": f"{training.drivers}, {training.groups}",
            "training: largest deviation of a loss": f"{training.deviation:.1e}",
            "batches": f"{self.batches}, by {self.batch_drivers} drivers",
            "batches: outputs compared": self.outputs,
            "requests": f"{self.requests} ({answered or 'none'})",
            "requests: told to come again": f"{self.refused.total()} ({refused or 'none'})",
            "requests: broken off by a host without power": self.broken,
            "requests: nobody listened, sent to another": self.unheard,
            "requests: longest until the right answer": f"{self.slowest_s:.0f} s",
            "memory of the machine in use, at most": f"{self.memory / 2**30:.1f} GiB",
            "wrong": len(wrong),
        }
        lines = ["| chaos | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]
        return "\n".join(lines + [f"- {each}" for each in wrong[:50]])


class Batches:
    """One batch after the other, each into a new target; a driver that died or left work is started again."""

    def __init__(self, lab: Lab, source: Store) -> None:
        self.lab, self.source = lab, source
        self.targets: list[Store] = []
        self.starts = 0
        self._next()

    def tend(self, *, over: bool) -> bool:
        """Start what is to be started; when it is ``over``, whether the last batch is complete."""
        code = self.process.poll()
        if code == 0:
            if not over:
                self._next()
            return over
        if code is not None:
            self._start()
        return False

    def workers(self) -> list[psutil.Process]:
        """The processes that work for it, on all hosts."""
        return [process for name in ACTORS for process in self.lab.find(name)]

    def _next(self) -> None:
        self._left = DRIVER_STARTS
        self.targets.append(connect(f"s3://{BUCKET}/out-{len(self.targets) + 1:02d}"))
        self._start()

    def _start(self) -> None:
        log = f"batch-{len(self.targets):02d}.log"
        if not self._left:
            said = (self.lab.folder / log).read_text(errors="replace")[-4000:]
            raise LabError(f"work is left after {DRIVER_STARTS} starts of a batch:\n{said}")
        self._left -= 1
        self.starts += 1
        command = [sys.executable, "jobs/upscale_bucket.py", self.source.uri, self.targets[-1].uri]
        command += ["--model", MODEL, "--scale", "2", "--device", "cpu", "--actors", "2", "--json"]
        self.process = self.lab.start(HEAD, command, log)


class Chaos(Faults):
    """The faults of all three."""

    def __init__(self, lab: Lab, training: Training, batches: Batches, rng: random.Random) -> None:
        super().__init__(lab, DECK, OTHERS, rng)
        self._workers: dict[str, Callable[[], list[psutil.Process]]] = {
            "training": training.workers,
            "batch": batches.workers,
            "service": lambda: service.replicas(lab),
        }
        self._drivers: dict[str, Callable[[], subprocess.Popen[bytes]]] = {
            "training": lambda: training.process,
            "batch": lambda: batches.process,
        }

    def _worker(self, of: str) -> bool:
        return self.kill_one(self._workers[of]())

    def _driver(self, of: str) -> bool:
        return kill_driver(self._drivers[of]())


def judge(requests: Iterable[list[Attempt]], outages: list[Outage]) -> Iterator[str]:
    """What a client must not see: anything but an answer, a time to come again, or the end of a host."""
    for request in requests:
        for attempt in request:
            told = attempt.status in AGAIN and attempt.again
            if not (attempt.right or told or not attempt.heard or broken_off(attempt, outages)):
                yield f"a request: {attempt.outcome}, after {attempt.ended - attempt.begun:.1f} s"
        if not request or not request[-1].right:
            yield f"a request was never answered, in {len(request)} attempts"


def broken_off(attempt: Attempt, outages: list[Outage]) -> bool:
    """Whether it ended without an answer because its host lost its power."""
    return not attempt.status and any(
        each.host == attempt.host and each.begun <= attempt.ended and attempt.begun <= each.ended
        for each in outages
    )


def count_requests(requests: list[list[Attempt]], outages: list[Outage], report: Report) -> None:
    """What became of them, for the report."""
    report.requests = len(requests)
    for request in requests:
        if request:
            took = request[-1].ended - request[0].begun
            report.slowest_s = max(report.slowest_s, took)
        for attempt in request:
            if attempt.right:
                report.answered[attempt.host] += 1
            report.unheard += not attempt.heard
            report.broken += attempt.heard and broken_off(attempt, outages)
            if attempt.status in AGAIN:
                report.refused[attempt.status] += 1
    report.wrong += judge(requests, outages)


def check_batches(batches: Batches, inputs: set[str], expected: Expected, report: Report) -> None:
    """Every batch against the undisturbed process."""
    report.batches, report.batch_drivers = len(batches.targets), batches.starts
    for target in batches.targets:
        try:
            found = [*compare(target, inputs, expected.outputs), *rest_of(target)]
        except RayscaleError as error:
            found = [str(error)]
        report.outputs += len(expected.outputs)
        report.wrong += [f"{target.uri}: {what}" for what in found]


def make_source(folder: Path, seed: int) -> tuple[Store, Expected]:
    """Small images and a scene in the bucket, and what becomes of them."""
    from benchmarks.scene_memory import make_scene  # needs the extra geo

    files = make_images(IMAGES, 0, seed)
    make_scene(folder / "scene.tif", SCENE_MEGAPIXELS)
    get_client().create_bucket(Bucket=BUCKET)
    source = connect(f"s3://{BUCKET}/in")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(source.write, files, files.values()))
    source.write_file(SCENE, folder / "scene.tif")
    return source, reference(files, MODEL, folder / "scene.tif")


def deploy(lab: Lab) -> None:
    """Two ingresses and two model replicas, each on a host of its own: else all would be on the head in the end."""
    config = yaml.safe_load(CONFIG.read_text())
    ingress, upscaling = config["applications"][0]["deployments"]
    upscaling["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    ingress["max_replicas_per_node"] = upscaling["max_replicas_per_node"] = 1
    service.deploy(lab, HEAD, config, "deploy.log")


def is_whole(lab: Lab) -> bool:
    """Whether the service has its replicas."""
    return all(len(service.replicas(lab, name)) == n for name, n in DEPLOYMENTS.items())


def disturb(
    faults: Chaos,
    training: Training,
    batches: Batches,
    balancer: Balancer,
    seconds: float,
    report: Report,
    say: Callable[[str], None],
) -> None:
    """Faults for so many seconds; then all is mended, and the work goes to its end."""
    begun = coming = time.monotonic()
    while True:
        time.sleep(0.2)
        now = time.monotonic()
        over = now > begun + seconds
        report.memory = max(report.memory, psutil.virtual_memory().used)
        faults.mend(all_=over)
        done = [train_kill_run.tend(training, report.training), batches.tend(over=over)]
        if over:
            training.hurry()
            if all(done) and is_whole(faults.lab):
                return
            if now > begun + seconds + FINISH_S:
                raise LabError(
                    f"not at the end {FINISH_S:.0f} s after all was well: training done {done[0]}, batch done {done[1]}, "
                    f"service whole {is_whole(faults.lab)}"
                )
        elif now > coming:
            coming = now + faults.rng.uniform(SHORTEST_S, LONGEST_S)
            if kind := faults.make():
                steps = training.steps()
                say(
                    f"{now - begun:4.0f} s: {kind}; step {steps[-1].number if steps else 0}, "
                    f"batch {len(batches.targets)}, {len(balancer.requests)} requests"
                )


def run(
    folder: Path, seconds: float, *, seed: int = 0, say: Callable[[str], None] = print
) -> Report:
    """The whole run in a fresh ``folder``."""
    rng, steps = random.Random(seed), max(300, int(STEPS_PER_S * seconds))
    report = Report(train_kill_run.Report(steps))
    with Lab(folder, cpus=CPUS) as lab:
        lab.variables |= {**service.VARIABLES, "RAYSCALE_SCENE_PIXELS": str(SCENE_PIXELS)}
        lab.start_store("s3", "mlflow")  # first: Ray's processes have its variables from their node
        for name in (HEAD, *OTHERS):
            lab.add(name)
        os.environ.update(lab.variables)
        os.environ["RAYSCALE_CACHE_DIR"] = str(folder / "cache")
        say("computing what an undisturbed process makes ...")
        source, expected = make_source(folder, seed)
        train_kill_run.make_dataset(folder / "source")
        undisturbed = train_kill_run.Undisturbed(folder, steps)
        images = enlarged(make_images(8, 0, seed + 1), MODEL)
        say("starting service, training and batch ...")
        deploy(lab)
        start = time.monotonic()
        keys = [*train_kill_run.configuration(steps), "workers.count=2", "workers.minimum=1"]
        training = Training(lab, HEAD, folder / "training", [*keys, "workers.resize_every_s=5"])
        batches = Batches(lab, source)
        faults = Chaos(lab, training, batches, rng)
        places = {name: service.address(lab, name) for name in (HEAD, *OTHERS)}
        try:
            with Balancer(places, images, clients=3, pause_s=0.5, keep=False) as balancer:
                while not training.steps() or not batches.workers():
                    time.sleep(0.2)
                    train_kill_run.tend(training, report.training)
                    batches.tend(over=False)
                disturb(faults, training, batches, balancer, seconds, report, say)
        except (LabError, RuntimeError) as error:
            report.wrong.append(str(error))
        report.seconds, report.faults = time.monotonic() - start, faults.made
        say("comparing ...")
        count_requests(balancer.requests, faults.outages, report)
        check_batches(batches, {SCENE, *expected.outputs}, expected, report)
        if training.ended:
            undisturbed.compare(training, report.training)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600, help="of faults (default: 600)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if reason := lacking():
        print(f"no hosts: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        report = run(
            Path(folder), options.seconds, seed=options.seed,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
    print(report.to_markdown())
    return 1 if report.wrong or report.training.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
