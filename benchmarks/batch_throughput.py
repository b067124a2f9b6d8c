"""What the batch costs beside the network, and what a second worker brings.

    python benchmarks/batch_throughput.py                            # EDSR-baseline x2, 48 images of 256 x 256
    python benchmarks/batch_throughput.py --images 16 --side 96 --rounds 1

Yardsticks on the same PNG files, in rounds that alternate:

engine, no files     one process, as many threads as cores: the network on pictures that lie in memory
engine, N processes  the same in one and in two processes of one thread each: what the machine makes of a second core
engine with files    the same, with reading, decoding, encoding and writing of files on the local disk, one after the other
batch, 2 workers     S3 to S3 (the server of the local stack, on this machine too) on a Ray of two CPUs, one thread each
batch, 1 worker      the same on a Ray of one CPU; its threads read, encode and write on the core that is left over
batch, N held        the same with every worker held to a core of its own, as on machines of one core: what scaling is judged by

The batch is timed while every worker has work: not as Ray starts and loads the model, and not at the end, when one worker waits for the
other's last block; all else (S3, Ray Data, manifest, lease) is in. Targets: batch with 2 workers >= 0.9 of the engine without files, and 2 held workers >= 1.8 of 1.
Needs two cores to itself: the S3 server and the driver share them with the workers.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import tempfile
import time
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from rayscale import cluster, local
from rayscale.batch import Progress, upscale_bucket
from rayscale.imaging import read_image, write_image
from rayscale.inference import Upscaler
from rayscale.options import Options
from rayscale.registry import open_model
from rayscale.storage import connect

_WORKER = "ray::MapWorker"  # the name of its process
SCALE, BUCKET, WORKERS = 2, "batch-throughput", 2


def make_images(count: int, side: int) -> dict[str, bytes]:
    """PNG files by key: smooth colours with noise, so that they deflate about as photographs do."""
    rng = np.random.default_rng(0)
    files = {}
    y, x = np.mgrid[:side, :side]
    for number in range(count):
        waves = [128 + 80 * np.sin(x * a + y * b) for a, b in rng.uniform(-0.1, 0.1, (3, 2))]
        pixels = np.stack(waves, -1) + rng.normal(0, 4, (side, side, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "png")
        files[f"{number:04d}.png"] = file.getvalue()
    return files


def engine(upscaler: Upscaler, files: dict[str, bytes]) -> float:
    """Images/s of the network alone."""
    images = [read_image(data) for data in files.values()]
    upscaler.upscale(images[0])
    start = time.perf_counter()
    for image in images:
        upscaler.upscale(image)
    return len(images) / (time.perf_counter() - start)


def engines(model: str, files: dict[str, bytes], processes: int) -> float:
    """Images/s of processes of one thread, each with its share of the files."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(processes + 1)
    items = list(files.items())
    crew = [
        context.Process(target=_one_thread, args=(model, dict(items[i::processes]), together))
        for i in range(processes)
    ]
    for process in crew:
        process.start()
    together.wait()
    start = time.perf_counter()
    together.wait()
    seconds = time.perf_counter() - start
    for process in crew:
        process.join()
    return len(files) / seconds


def _one_thread(model: str, files: dict[str, bytes], together: Barrier) -> None:
    torch.set_num_threads(1)
    upscaler = Upscaler(open_model(model, scale=SCALE).network, Options(scale=SCALE), device="cpu")
    images = [read_image(data) for data in files.values()]
    upscaler.upscale(images[0])
    together.wait()
    for image in images:
        upscaler.upscale(image)
    together.wait()


def engine_with_files(upscaler: Upscaler, files: dict[str, bytes], folder: Path) -> float:
    """Images/s from file to file."""
    source, target = connect(folder / "in"), connect(folder / "out")
    for key, data in files.items():
        source.write(key, data)
    upscaler.upscale(read_image(next(iter(files.values()))))
    start = time.perf_counter()
    for key in files:
        target.write(key, write_image(upscaler.upscale(read_image(source.read(key)))))
    return len(files) / (time.perf_counter() - start)


def batch(model: str, workers: int, number: int, *, held: bool = False) -> float:
    """Images/s of the batch while all its workers have work; ``held``: each on one core."""
    ticks: list[Progress] = []

    def tick(progress: Progress) -> None:
        ticks.append(progress)
        if held and len(ticks) == workers + 1:  # all have begun; the clock starts here
            _hold_workers(workers)

    cluster.connect(num_cpus=workers, log_to_driver=False)
    try:
        summary = upscale_bucket(f"s3://{BUCKET}/in", f"s3://{BUCKET}/out-{workers}-{held}-{number}", model=model, device="cpu", actors=workers, progress=tick, options=Options(scale=SCALE))  # fmt: skip
    finally:
        cluster.shutdown()
    if summary.exit_code:
        raise SystemExit(f"the batch failed: {summary.failed[0].message}")
    # The first tick comes before the workers, each later one ends a block.
    if len(ticks) < 2 * workers + 2:
        raise SystemExit("too few images to time: give --images more")
    first, last = ticks[workers], ticks[-1 - workers]
    return (last.finished - first.finished) / (last.seconds - first.seconds)


def _hold_workers(count: int) -> None:
    """Bind the threads of each worker process of this Ray to one core; those they start later inherit it."""
    found = [p for p in psutil.Process().children(recursive=True) if _WORKER in p.name()]
    if len(found) != count:
        raise SystemExit(f"{len(found)} workers where {count} were expected")
    cores = sorted(os.sched_getaffinity(0))
    for process, core in zip(sorted(found, key=lambda p: p.pid), cores, strict=False):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {core})


def main() -> None:
    import boto3

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--side", type=int, default=256, help="of the square images, in pixels")
    parser.add_argument("--model", default="edsr-baseline")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    files = make_images(options.images, options.side)
    torch.set_num_threads(WORKERS)
    upscaler = Upscaler(
        open_model(options.model, scale=SCALE).network,
        Options(scale=SCALE),
        device="cpu",
    )
    os.environ.pop("RAY_ADDRESS", None)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="batch-throughput-") as scratch:
        home = Path(scratch).resolve()
        try:
            server = local.up(home, services=("s3",), fixed_ports=False)
            os.environ.update(local.environment(home))
            client = boto3.session.Session().client("s3", endpoint_url=server.s3)
            client.create_bucket(Bucket=BUCKET)
            source = connect(f"s3://{BUCKET}/in")
            for key, data in files.items():
                source.write(key, data)
            for number in range(options.rounds):
                for name, measure in (
                    ("engine, no files", partial(engine, upscaler, files)),
                    ("engine, 1 process", partial(engines, options.model, files, 1)),
                    ("engine, 2 processes", partial(engines, options.model, files, WORKERS)),
                    (
                        "engine with files",
                        partial(engine_with_files, upscaler, files, home / "files"),
                    ),
                    ("batch, 2 workers", partial(batch, options.model, WORKERS, number)),
                    ("batch, 1 worker", partial(batch, options.model, 1, number)),
                    ("batch, 2 held", partial(batch, options.model, WORKERS, number, held=True)),
                    ("batch, 1 held", partial(batch, options.model, 1, number, held=True)),
                ):
                    rate = measure()
                    rates.setdefault(name, []).append(rate)
                    print(f"round {number + 1}: {name:19} {rate:7.3f} images/s", flush=True)
        finally:
            local.down(home)
    bare, alone, both, files_too, two, one, two_held, one_held = rates.values()
    for text, above, below, target in (
        ("batch / engine without files", two, bare, 0.9),
        ("batch / engine with files", two, files_too, None),
        ("2 held workers / 1", two_held, one_held, 1.8),
        ("2 workers / 1 that may use both cores", two, one, None),
        ("engine, 2 processes / 1 process", both, alone, None),
    ):
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        wanted = f" (target {target})" if target else ""
        print(f"{text}: median {statistics.median(ratios):.3f} of {len(ratios)} rounds{wanted}")


if __name__ == "__main__":
    main()
