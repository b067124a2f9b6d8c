"""What a kill run sees: a watcher of the target while it runs, the checks at its end, and the report of both."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet
from benchmarks.undisturbed import SCENE, Expected, Output

from rayscale.errors import RayscaleError
from rayscale.storage import Entry, Store

BUCKET = "kill-run"
PIECE = 32 << 20  # bytes of an object that memory holds
PHASES = ("images", "windows", "assembly")  # of the progress, a unit each


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
        self._target, self._expected, self.report = target, expected, report
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
        self.report.listings += 1
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
                self.report.faults.append(f"during the run, {key} was written again")
        for key in self._versions.keys() - seen.keys():
            del self._versions[key]
            self.report.faults.append(f"during the run, {key} was there and then not")
        for key in self._rng.sample(sorted(seen), min(5, len(seen))):
            self.report.samples += 1
            expected = self._expected.outputs.get(key)
            whole = key == SCENE and expected and expected.size == seen[key].size
            if not whole and read_output(self._target, key) != expected:
                self.report.faults.append(f"during the run, {key} was not what it must be")


def check(
    target: Store, inputs: set[str], expected: dict[str, Output], report: Report, home: Path
) -> None:
    """Compare with reference and manifest, and look for what is left; whatever does not agree is a fault."""
    report.faults += [*compare(target, inputs, expected), *rest_of(target)]
    for path in (home / "cache").rglob("*"):
        if path.is_file():
            size = path.stat().st_size
            report.faults.append(f"{path.relative_to(home)} of {size} bytes was left")


def compare(target: Store, inputs: set[str], expected: dict[str, Output]) -> Iterator[str]:
    """What of the objects is not as in the reference, or not as the manifest says."""
    outputs = outputs_of(target)
    for key in outputs.keys() - expected.keys():
        yield f"{key} should not be"
    for key in expected.keys() - outputs.keys():
        yield f"{key} is missing"
    keys = sorted(outputs.keys() & expected.keys())
    with ThreadPoolExecutor(8) as pool:
        for key, found in zip(keys, pool.map(lambda k: read_output(target, k), keys), strict=True):
            if found != expected[key]:
                yield f"{key} differs from an undisturbed run"
    data = target.read("_rayscale/manifest.parquet")
    rows = {row["key"]: row for row in pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()}
    lines = [json.loads(line) for line in target.read("_rayscale/manifest.jsonl").splitlines()]
    if [line["key"] for line in lines] != sorted(inputs) or rows.keys() != inputs:
        yield "the manifest does not have exactly one row per input"
    for key, row in rows.items():
        if key in expected and key in outputs:
            told = (row["status"], row["output_etag"], row["output_size"], row["output_sha256"])
            if told != ("done", outputs[key].etag, *expected[key]):
                yield f"the row of {key} does not tell its object"
        elif row["status"] != "failed" or not row["message"]:
            yield f"{key} is corrupt and has no failure row"
        elif key in expected:
            yield f"{key} failed: {row['error']}: {row['message']}"
    failures = [
        json.loads(line)["key"] for line in target.read("_rayscale/failures.jsonl").splitlines()
    ]
    if failures != sorted(inputs - expected.keys()):
        yield "the failure list is not that of the corrupt inputs"


def rest_of(target: Store) -> Iterator[str]:
    """What of a scene was left in the store."""
    if parts := list(target.list("_rayscale/scenes/")):
        yield f"{len(parts)} windows were left"
    if uploads := list(target.list_unfinished()):
        yield f"{len(uploads)} multipart uploads were left"


def s3_client() -> Any:
    """For what no store does."""
    import boto3

    return boto3.session.Session().client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
