"""Nothing lost, nothing double: a batch whose driver, workers and S3 server are killed again and again.

    python benchmarks/kill_run.py                                    # 1000 images, at least 20 kills
    python benchmarks/kill_run.py --images 60 --kills 4

Starts a stack of its own (S3, Ray) on free ports, fills a bucket with small PNG and JPEG files, some of them corrupt, and runs
``jobs/upscale_bucket.py`` on it. At random points of its progress worker, S3 server and driver die by SIGKILL, in turn; what Ray does
not start again is started again here, until nothing is left to do. Meanwhile a watcher lists the target and compares a sample
of what it sees. At the end every object is compared with the one an undisturbed process computes, and with the
manifest. Prints a summary in Markdown; exit code 0 when every check holds.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet
from PIL import Image

from rayscale import local
from rayscale.errors import RayscaleError
from rayscale.storage import Store, connect

MODEL, SCALE, BUCKET = "edsr-baseline", 2, "kill-run"
SIDES = range(48, 97, 8)
# The batch packs smaller ones, and what shares a pack depends on what was killed: a value on the edge could round otherwise.
SHAPES = [(height, width) for height in SIDES for width in SIDES if height * width > 64 * 64]
CORRUPT = 12
VICTIMS = ("worker", "s3", "driver")
LONGEST_PAUSE_S = 2.0  # between the point of a kill and the kill
JOB = Path(__file__).resolve().parents[1] / "jobs" / "upscale_bucket.py"


@dataclass
class Report:
    """What happened, and what of it must not have."""

    images: int
    corrupt: int
    kills: Counter[str] = field(default_factory=Counter)
    drivers: int = 0
    listings: int = 0
    samples: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def to_markdown(self) -> str:
        """A table, and the faults below it."""
        killed = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        rows = {
            "images": f"{self.images}, {self.corrupt} of them corrupt",
            "kills": f"{self.kills.total()} ({killed})",
            "drivers started": self.drivers,
            "listings of the target during the run": self.listings,
            "objects compared during the run": self.samples,
            "seconds": f"{self.seconds:.0f}",
            "faults": len(self.faults),
        }
        lines = [
            "| kill run | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows.items()),
        ]
        return "\n".join(lines + [f"- {fault}" for fault in self.faults[:50]])


def make_images(count: int, corrupt: int, seed: int) -> dict[str, bytes]:
    """Files by key: smooth colours with noise; the last ``corrupt`` of them damaged in four ways."""
    rng = np.random.default_rng(seed)
    files = {}
    for number in range(count):
        height, width = SHAPES[rng.integers(len(SHAPES))]
        y, x = np.mgrid[:height, :width]
        waves = [128 + 80 * np.sin(x * a + y * b) for a, b in rng.uniform(-0.3, 0.3, (3, 2))]
        pixels = np.stack(waves, -1) + rng.normal(0, 6, (height, width, 3))
        kind = ("png", "jpeg")[number % 2]
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, kind)
        data = file.getvalue()
        if number >= count - corrupt:
            half = len(data) // 2
            data = (data[:half], data[:4] + data[half:], b"", b"no image")[number // 2 % 4]
        files[f"{number % 7}/{number:05d}.{kind}"] = data
    return files


def reference(files: dict[str, bytes]) -> dict[str, bytes]:
    """What an undisturbed run makes, one image after the other in this process; no corrupt ones."""
    import torch

    from rayscale.imaging import Provenance, read_image, write_image
    from rayscale.inference import Upscaler
    from rayscale.registry import open_model

    torch.set_num_threads(1)
    opened = open_model(MODEL, scale=SCALE)
    upscaler = Upscaler(opened.network, SCALE, device="cpu")
    provenance = Provenance(opened.label, opened.digest, upscaler.describe())
    outputs = {}
    for key, data in files.items():
        try:
            outputs[key] = write_image(upscaler.upscale(read_image(data)), provenance)
        except RayscaleError:
            continue
    return outputs


def outputs_of(target: Store) -> dict[str, str]:
    """Version tags of the outputs that are visible."""
    return {e.key: e.etag for e in target.list() if not e.key.startswith("_rayscale/")}


class Watcher(threading.Thread):
    """Lists the target until ``stop`` is set: every object that is seen must be a whole and right one."""

    def __init__(self, target: Store, expected: dict[str, bytes], report: Report) -> None:
        super().__init__(name="watcher")
        self.stop = threading.Event()
        self.seen = 0
        self._target, self._expected, self._report = target, expected, report

    def run(self) -> None:
        rng = random.Random(1)
        while not self.stop.wait(0.2):
            try:
                keys = sorted(outputs_of(self._target))
                self.seen = len(keys)
                self._report.listings += 1
                for key in rng.sample(keys, min(5, len(keys))):
                    self._compare(key, self._target.read(key))
            except RayscaleError:
                continue  # the server is down: it was killed

    def _compare(self, key: str, data: bytes) -> None:
        self._report.samples += 1
        try:
            Image.open(io.BytesIO(data)).load()
        except OSError as error:
            self._report.faults.append(f"during the run, {key} did not decode: {error}")
        if data != self._expected.get(key):
            self._report.faults.append(f"during the run, {key} was not what it must be")


class Batch:
    """The driver, started again whenever it ended with work left."""

    def __init__(self, source: Store, target: Store, log: Path) -> None:
        self.command = [
            sys.executable, str(JOB), source.uri, target.uri,
            "--model", MODEL, "--scale", str(SCALE), "--device", "cpu", "--json",
        ]  # fmt: skip
        self._log = log.open("ab")
        self.starts = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        return subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=self._log)

    def is_complete(self) -> bool:
        """Whether all is done but what cannot be; starts the driver again when it died or left work."""
        if self.process.poll() is None:
            return False
        output = self.process.stdout.read() if self.process.stdout else b""
        if self.process.returncode in (0, 3):
            failed = {row["error"] for row in json.loads(output)["failed"]}
            if failed <= {"bad_image", "unsupported_media"}:
                return True
        self.process = self._start()
        return False

    def end(self) -> None:
        """Leave no driver behind."""
        self.process.kill()
        self.process.wait()
        self._log.close()


def find_workers(home: Path) -> list[int]:
    """The actors of the batch on the Ray of this home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        title = (process.info["cmdline"] or [""])[0]
        if title.startswith("ray::") and "UpscaleActor" in title:
            try:
                if process.environ().get("RAYSCALE_STACK") == str(home):
                    found.append(process.pid)
            except psutil.Error:
                continue
    return found


def kill(victim: str, home: Path, batch: Batch, rng: random.Random) -> bool:
    """SIGKILL for one process of the kind; False when there is none."""
    if victim == "driver":
        if batch.process.poll() is not None:
            return False
        batch.process.kill()
        batch.process.wait()
        return True
    if victim == "worker":
        workers = find_workers(home)
        if workers:
            psutil.Process(rng.choice(workers)).kill()
        return bool(workers)
    (server,) = (status for status in local.status(home) if status.name == "s3")
    if server.pid is None:
        return False
    os.kill(server.pid, signal.SIGKILL)
    time.sleep(rng.uniform(0, 2))
    local.up(home, services=("s3",), fixed_ports=False)
    return True


def check(
    target: Store,
    files: dict[str, bytes],
    expected: dict[str, bytes],
    report: Report,
    endpoint: str,
) -> None:
    """Compare objects, reference and manifest; whatever does not agree is a fault."""
    import boto3

    fault = report.faults.append
    outputs = outputs_of(target)
    for key in outputs.keys() - expected.keys():
        fault(f"{key} should not be")
    for key in expected.keys() - outputs.keys():
        fault(f"{key} is missing")
    keys = sorted(outputs.keys() & expected.keys())
    with ThreadPoolExecutor(8) as pool:
        for key, data in zip(keys, pool.map(target.read, keys), strict=True):
            if data != expected[key]:
                fault(f"{key} differs from an undisturbed run")
    data = target.read("_rayscale/manifest.parquet")
    rows = {row["key"]: row for row in pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()}
    lines = [json.loads(line) for line in target.read("_rayscale/manifest.jsonl").splitlines()]
    if [line["key"] for line in lines] != sorted(files) or rows.keys() != files.keys():
        fault("the manifest does not have exactly one row per input")
    for key, row in rows.items():
        if key in expected:
            told = (row["status"], row["output_etag"], row["output_sha256"])
            if told != ("done", outputs.get(key), hashlib.sha256(expected[key]).hexdigest()):
                fault(f"the row of {key} does not tell its object")
        elif row["status"] != "failed" or not row["message"]:
            fault(f"{key} is corrupt and has no failure row")
    failures = [
        json.loads(line)["key"] for line in target.read("_rayscale/failures.jsonl").splitlines()
    ]
    if failures != sorted(files.keys() - expected.keys()):
        fault("the failure list is not that of the corrupt inputs")
    client = boto3.session.Session().client("s3", endpoint_url=endpoint)
    uploads = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    if uploads:
        fault(f"{len(uploads)} multipart uploads were left")


@contextmanager
def stack(folder: Path) -> Iterator[tuple[Path, str]]:
    """S3 and Ray of their own, this process and its children pointed at them; the endpoint of S3."""
    home = folder.resolve()
    before = dict(os.environ)
    try:
        addresses = local.up(home, services=("s3", "ray"), num_cpus=2, fixed_ports=False)
        os.environ.update(local.environment(home))
        yield home, addresses.s3
    finally:
        local.down(home)
        os.environ.clear()
        os.environ.update(before)


def run(
    folder: Path, images: int, kills: int, *, seed: int = 0, say: Callable[[str], None] = print
) -> Report:
    """The whole run in a fresh ``folder``; what went wrong is in ``Report.faults``."""
    import boto3

    rng = random.Random(seed)
    corrupt = min(CORRUPT, images // 5)
    report = Report(images, corrupt)
    files = make_images(images, corrupt, seed)
    say(f"computing what {images} images must become ...")
    expected = reference(files)
    if len(files) - len(expected) != corrupt:
        report.faults.append(f"{len(files) - len(expected)} inputs are refused, not {corrupt}")
    with stack(folder) as (home, endpoint):
        boto3.session.Session().client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        source, target = connect(f"s3://{BUCKET}/in"), connect(f"s3://{BUCKET}/out")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(source.write, files, files.values()))
        start = time.monotonic()
        watcher, batch = Watcher(target, expected, report), Batch(source, target, home / "log")
        watcher.start()
        try:
            points = sorted(rng.randrange(len(expected) * 9 // 10) for _ in range(kills))
            while not batch.is_complete():
                time.sleep(0.1)
                number = report.kills.total()
                if number == kills or watcher.seen <= points[number]:
                    continue
                time.sleep(rng.uniform(0, LONGEST_PAUSE_S))
                victim = VICTIMS[number % len(VICTIMS)]
                if kill(victim, home, batch, rng):
                    report.kills[victim] += 1
                    say(f"kill {number + 1}: {victim}, at {watcher.seen} outputs")
        finally:
            watcher.stop.set()
            watcher.join()
            batch.end()
        report.seconds, report.drivers = time.monotonic() - start, batch.starts
        check(target, files, expected, report, endpoint)
    if report.kills.total() < kills:
        report.faults.append(f"the work ended after {report.kills.total()} of {kills} kills")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20, help="of driver, worker, S3")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-run-") as folder:
        report = run(
            Path(folder), options.images, options.kills,
            seed=options.seed, say=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
    print(report.to_markdown())
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
