"""Nothing lost, nothing double: a batch whose driver, workers and S3 server are killed again and again.

    python benchmarks/kill_run.py                                    # 1000 images, at least 20 kills
    python benchmarks/kill_run.py --images 60 --kills 4
    python benchmarks/kill_run.py --kills 24 --scene 100 --model bicubic

Starts a stack of its own (S3, Ray) on free ports, fills a bucket with small PNG and JPEG files, some of them corrupt, and runs
``jobs/upscale_bucket.py`` on it. At random points of its progress worker, S3 server and driver die by SIGKILL, in turn; what Ray does
not start again is started again here, until nothing is left to do. Meanwhile a watcher lists the target and compares a sample
of what it sees. At the end every object is compared with the one an undisturbed process computes, and with the
manifest. Prints a summary in Markdown; exit code 0 when every check holds.

``--scene`` puts one GeoTIFF beside the images that all workers share by windows (of 16.8 megapixels at least, or lower
RAYSCALE_SCENE_PIXELS); the kills then fall on images, windows and assembly. No process holds the scene; disk needed: some 150
bytes per pixel in TMPDIR.
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
from typing import Any

import psutil
import pyarrow.parquet

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.undisturbed import (
    MODEL,
    SCALE,
    SCENE,
    Expected,
    Output,
    make_images,
    reference,
)

from rayscale import local
from rayscale.errors import RayscaleError
from rayscale.storage import Entry, Store, connect

BUCKET = "kill-run"
PIECE = 32 << 20  # bytes of an object that memory holds
CORRUPT = 12
WORKERS = ("UpscaleActor", "SceneActor", "assemble_scene")  # in the title of a process of Ray
VICTIMS = ("worker", "s3", "driver")
LONGEST_PAUSE_S = 2.0  # between the point of a kill and the kill
PHASES = ("images", "windows", "assembly")  # of the progress, a unit each
JOB = ROOT / "jobs" / "upscale_bucket.py"


@dataclass
class Report:
    """What happened, and what of it must not have."""

    model: str
    images: int
    corrupt: int
    scene: float = 0.0
    windows: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    drivers: int = 0
    listings: int = 0
    samples: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def to_markdown(self) -> str:
        """A table, and the faults below it."""
        killed = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        during = ", ".join(f"{phase} {self.phases[phase]}" for phase in PHASES)
        scene = f"{self.scene:g} megapixels in {self.windows} windows"
        rows = {
            "model": self.model,
            "images": f"{self.images}, {self.corrupt} of them corrupt",
            "scene": scene if self.windows else "none",
            "kills": f"{self.kills.total()} ({killed})",
            **({"kills during": during} if self.windows else {}),
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


def outputs_of(target: Store) -> dict[str, Entry]:
    """The outputs that are visible."""
    return {e.key: e for e in target.list() if not e.key.startswith("_rayscale/")}


def read_output(target: Store, key: str) -> Output:
    """What an object is, read piece by piece."""
    digest, size = hashlib.sha256(), 0
    while piece := target.read_range(key, size, PIECE):
        digest.update(piece)
        size += len(piece)
        if len(piece) < PIECE:
            break
    return Output(size, digest.hexdigest())


class Watcher(threading.Thread):
    """Lists the target until ``stop`` is set: every object that is seen must be a whole and right one, and stay.

    Of the scene only size and version are looked at: its bytes are those of the version that is compared at the end.

    Attributes:
        progress: in units of ``PHASES``; 2.0 as long as the scene is assembled. Never falls.
    """

    def __init__(self, target: Store, expected: Expected, report: Report) -> None:
        super().__init__(name="watcher")
        self.stop = threading.Event()
        self.progress = 0.0
        self._target, self._expected, self._report = target, expected, report
        self._versions: dict[str, Entry] = {}
        self._rng = random.Random(1)

    def run(self) -> None:
        while not self.stop.wait(0.2):
            try:
                self.look()
            except RayscaleError:
                continue  # the server is down: it was killed

    def look(self) -> None:
        """List once and compare a few."""
        entries = list(self._target.list())
        seen = {e.key: e for e in entries if not e.key.startswith("_rayscale/")}
        parts = sum(entry.key.startswith("_rayscale/scenes/") for entry in entries)
        self._report.listings += 1
        if SCENE in seen:
            self.progress = 3.0
        else:
            now = len(seen) / self._expected.images
            if self._expected.windows:
                now += parts / self._expected.windows
                now = 2.0 if parts == self._expected.windows else min(now, 1.999)
            self.progress = max(self.progress, now)
        for key, entry in seen.items():
            if self._versions.setdefault(key, entry) != entry:
                self._versions[key] = entry
                self._report.faults.append(f"during the run, {key} was written again")
        for key in self._versions.keys() - seen.keys():
            del self._versions[key]
            self._report.faults.append(f"during the run, {key} was there and then not")
        for key in self._rng.sample(sorted(seen), min(5, len(seen))):
            self._report.samples += 1
            expected = self._expected.outputs.get(key)
            whole = key == SCENE and expected and expected.size == seen[key].size
            if not whole and read_output(self._target, key) != expected:
                self._report.faults.append(f"during the run, {key} was not what it must be")


class Batch:
    """The driver, started again whenever it ended with work left, ``starts`` times in all; then RuntimeError."""

    def __init__(self, source: Store, target: Store, model: str, log: Path, starts: int) -> None:
        self.command = [
            sys.executable, str(JOB), source.uri, target.uri,
            "--model", model, "--scale", str(SCALE), "--device", "cpu", "--json",
        ]  # fmt: skip
        self._log = log.open("a+b")
        self._most = starts
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
        if self.starts == self._most:
            self._log.seek(0)
            end = self._log.read()[-4000:].decode(errors="replace")
            raise RuntimeError(f"work is left after {self.starts} starts; the log ends with\n{end}")
        self.process = self._start()
        return False

    def end(self) -> None:
        """Leave no driver behind."""
        self.process.kill()
        self.process.wait()
        self._log.close()


def find_workers(home: Path) -> list[int]:
    """The processes that work for the batch on the Ray of this home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        title = (process.info["cmdline"] or [""])[0]
        if title.startswith("ray::") and any(name in title for name in WORKERS):
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
        try:
            os.kill(rng.choice(workers), signal.SIGKILL)
        except (IndexError, ProcessLookupError):  # none, or it ended by itself
            return False
        return True
    (server,) = (status for status in local.status(home) if status.name == "s3")
    if server.pid is None:
        return False
    os.kill(server.pid, signal.SIGKILL)
    time.sleep(rng.uniform(0, 2))
    local.up(home, services=("s3",), fixed_ports=False)
    return True


def check(
    target: Store, inputs: set[str], expected: dict[str, Output], report: Report, home: Path
) -> None:
    """Compare objects, reference and manifest, and look for what is left; whatever does not agree is a fault."""
    fault = report.faults.append
    outputs = outputs_of(target)
    for key in outputs.keys() - expected.keys():
        fault(f"{key} should not be")
    for key in expected.keys() - outputs.keys():
        fault(f"{key} is missing")
    keys = sorted(outputs.keys() & expected.keys())
    with ThreadPoolExecutor(8) as pool:
        for key, found in zip(keys, pool.map(lambda k: read_output(target, k), keys), strict=True):
            if found != expected[key]:
                fault(f"{key} differs from an undisturbed run")
    data = target.read("_rayscale/manifest.parquet")
    rows = {row["key"]: row for row in pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()}
    lines = [json.loads(line) for line in target.read("_rayscale/manifest.jsonl").splitlines()]
    if [line["key"] for line in lines] != sorted(inputs) or rows.keys() != inputs:
        fault("the manifest does not have exactly one row per input")
    for key, row in rows.items():
        if key in expected and key in outputs:
            told = (row["status"], row["output_etag"], row["output_size"], row["output_sha256"])
            if told != ("done", outputs[key].etag, *expected[key]):
                fault(f"the row of {key} does not tell its object")
        elif row["status"] != "failed" or not row["message"]:
            fault(f"{key} is corrupt and has no failure row")
    failures = [
        json.loads(line)["key"] for line in target.read("_rayscale/failures.jsonl").splitlines()
    ]
    if failures != sorted(inputs - expected.keys()):
        fault("the failure list is not that of the corrupt inputs")
    check_rest(target, report, home)


def check_rest(target: Store, report: Report, home: Path) -> None:
    """Whatever of a scene is left over, in the store or on the disk of the workers, is a fault."""
    if parts := list(target.list("_rayscale/scenes/")):
        report.faults.append(f"{len(parts)} windows were left")
    if uploads := s3_client().list_multipart_uploads(Bucket=BUCKET).get("Uploads"):
        report.faults.append(f"{len(uploads)} multipart uploads were left")
    for path in (home / "cache").rglob("*"):
        if path.is_file():
            size = path.stat().st_size
            report.faults.append(f"{path.relative_to(home)} of {size} bytes was left")


def s3_client() -> Any:
    """For what no store does."""
    import boto3

    return boto3.session.Session().client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


@contextmanager
def stack(folder: Path) -> Iterator[Path]:
    """S3 and Ray of their own, this process and its children pointed at them; the home of both."""
    home = folder.resolve()
    before = dict(os.environ)
    try:
        os.environ["RAYSCALE_CACHE_DIR"] = str(home / "cache")
        local.up(home, services=("s3", "ray"), num_cpus=2, fixed_ports=False)
        os.environ.update(local.environment(home))
        yield home
    finally:
        local.down(home)
        os.environ.clear()
        os.environ.update(before)


def choose_points(kills: int, expected: Expected, rng: random.Random) -> list[float]:
    """At which progress to kill: anywhere among images and windows, one in four in the assembly."""
    if not expected.windows:
        return sorted(rng.uniform(0, 0.9) for _ in range(kills))
    last = max(1, kills // 4)
    return sorted(rng.uniform(0, 1.99) for _ in range(kills - last)) + [2.0] * last


def run(
    folder: Path,
    images: int,
    kills: int,
    *,
    scene: float = 0.0,
    model: str = MODEL,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Report:
    """The whole run in a fresh ``folder``, with a scene of so many megapixels; what went wrong is in ``Report.faults``."""
    rng = random.Random(seed)
    corrupt = min(CORRUPT, images // 5)
    files = make_images(images, corrupt, seed)
    inputs, path = set(files), None
    report = Report(model, images, corrupt)
    if scene:
        from benchmarks.scene_memory import make_scene  # needs the extra geo

        path = folder / "source.tif"
        report.scene = make_scene(path, scene)
        inputs.add(SCENE)
    say(f"computing what {len(inputs)} inputs must become ...")
    expected = reference(files, model, path)
    report.windows = expected.windows
    if len(inputs) - len(expected.outputs) != corrupt:
        report.faults.append(
            f"{len(inputs) - len(expected.outputs)} inputs are refused, not {corrupt}"
        )
    with stack(folder) as home:
        s3_client().create_bucket(Bucket=BUCKET)
        source, target = connect(f"s3://{BUCKET}/in"), connect(f"s3://{BUCKET}/out")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(source.write, files, files.values()))
        if path is not None:
            source.write_file(SCENE, path)
        start = time.monotonic()
        watcher = Watcher(target, expected, report)
        batch = Batch(source, target, model, home / "log", starts=2 * kills + 5)
        watcher.start()
        try:
            points = choose_points(kills, expected, rng)
            while not batch.is_complete():
                time.sleep(0.1)
                number = report.kills.total()
                if number == kills or watcher.progress < points[number]:
                    continue
                # Of the assembly nothing is seen from outside; it takes less than the scene took in all.
                longest = expected.seconds / 8 if points[number] == 2 else LONGEST_PAUSE_S
                time.sleep(rng.uniform(0, longest))
                progress, victim = watcher.progress, VICTIMS[number % len(VICTIMS)]
                if progress < 3 and kill(victim, home, batch, rng):
                    report.kills[victim] += 1
                    report.phases[PHASES[int(progress)]] += 1
                    say(f"kill {number + 1}: {victim}, at progress {progress:.3f}")
        finally:
            watcher.stop.set()
            watcher.join()
            batch.end()
        report.seconds, report.drivers = time.monotonic() - start, batch.starts
        check(target, inputs, expected.outputs, report, home)
    if report.kills.total() < kills:
        report.faults.append(f"the work ended after {report.kills.total()} of {kills} kills")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20, help="of driver, worker, S3")
    parser.add_argument(
        "--scene", type=float, default=0, metavar="MEGAPIXELS", help="of one GeoTIFF beside them"
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-run-") as folder:
        report = run(
            Path(folder), options.images, options.kills, scene=options.scene, model=options.model,
            seed=options.seed, say=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
    print(report.to_markdown())
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
