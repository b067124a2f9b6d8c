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
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.kill_report import BUCKET, PHASES, Report, Watcher, check, s3_client
from benchmarks.undisturbed import (
    MODEL,
    SCALE,
    SCENE,
    Expected,
    make_images,
    reference,
)

from rayscale import local
from rayscale.storage import Store, connect

CORRUPT = 12
WORKERS = ("UpscaleActor", "SceneActor", "assemble_scene")  # in the title of a process of Ray
VICTIMS = ("worker", "s3", "driver")
LONGEST_PAUSE_S = 2.0  # between the point of a kill and the kill
JOB = ROOT / "jobs" / "upscale_bucket.py"


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


def disturb(
    batch: Batch,
    watcher: Watcher,
    points: list[float],
    expected: Expected,
    home: Path,
    rng: random.Random,
    say: Callable[[str], None],
) -> None:
    """Kill at each of the points of progress, in turn, until the batch is complete."""
    report = watcher.report
    while not batch.is_complete():
        time.sleep(0.1)
        number = report.kills.total()
        if number == len(points) or watcher.progress < points[number]:
            continue
        # Of the assembly nothing is seen from outside; it takes less than the scene took in all.
        longest = expected.seconds / 8 if points[number] == 2 else LONGEST_PAUSE_S
        time.sleep(rng.uniform(0, longest))
        progress, victim = watcher.progress, VICTIMS[number % len(VICTIMS)]
        if progress < 3 and kill(victim, home, batch, rng):
            report.kills[victim] += 1
            report.phases[PHASES[int(progress)]] += 1
            say(f"kill {number + 1}: {victim}, at progress {progress:.3f}")


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
            disturb(batch, watcher, choose_points(kills, expected, rng), expected, home, rng, say)
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
