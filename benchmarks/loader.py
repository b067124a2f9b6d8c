"""Training samples per second beside other loaders: the same sub-images, on the same S3 server, in interleaved rounds.

    rayscale up && source .rayscale/stack.env
    python benchmarks/loader.py s3://rayscale/loader
    python benchmarks/loader.py s3://rayscale/loader --python /path/with/others/bin/python --rounds 5

Sub-images (HR 480 x 480 and LR 240 x 240, RGB) are made, prepared, and written again in the form of each loader:
mosaicml-streaming (MDS), litdata (chunks), webdataset (tar of .npy) and Ray Data (Parquet). Those that ``--python`` (this
one by default) cannot import are left out; they are no dependencies. A round runs each loader in a process of its own with
one thread of computation, cold (an empty cache), then warm (the same cache again): batches of 16 random aligned crops, LR
48, as torch tensors. The ratio is that of samples per CPU second, which other programs on the machine disturb least. At the
end: MB of HR pixels per CPU second that ``prepare`` makes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rayscale import strictjson
from rayscale.storage import connect

SCALE, PATCH, BATCH, SEED = 2, 48, 16, 0
Pair = tuple[np.ndarray, np.ndarray]
"""LR and HR ``(C, h, w)``."""


class Form(NamedTuple):
    """How a loader stores the pairs in a folder, and how it reads them from S3 with a cache."""

    module: str
    write: Callable[[list[Pair], Path], None]
    read: Callable[[str, Path], Iterator[Pair]]


def write_mds(pairs: list[Pair], folder: Path) -> None:
    from streaming import MDSWriter

    columns = {"lr": "ndarray:uint8", "hr": "ndarray:uint8"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=64 << 20) as writer:
        for lr, hr in pairs:
            writer.write({"lr": lr, "hr": hr})


def read_mds(uri: str, cache: Path) -> Iterator[Pair]:
    from streaming import StreamingDataset

    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    dataset = StreamingDataset(remote=uri, local=str(cache), shuffle=True, batch_size=BATCH)
    while True:
        for sample in dataset:
            yield sample["lr"], sample["hr"]


def write_tar(pairs: list[Pair], folder: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxsize=64 << 20, verbose=0) as writer:
        for number, (lr, hr) in enumerate(pairs):
            writer.write({"__key__": f"{number:08d}", "lr.npy": lr, "hr.npy": hr})


def read_tar(uri: str, cache: Path) -> Iterator[Pair]:
    import webdataset

    from rayscale.storage.s3_client import get_client

    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    urls = [
        get_client().generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": f"{prefix}/{entry.key}"}
        )
        for entry in connect(uri).list()
        if entry.key.endswith(".tar")
    ]
    names = {url: f"{number:05d}.tar" for number, url in enumerate(urls)}
    for url, name in names.items():  # its own cache refuses addresses with a query
        if not (cache / name).exists():
            subprocess.run(["curl", "-sf", "-o", str(cache / name), url], check=True)
    files = [str(cache / name) for name in names.values()]
    shuffled = webdataset.WebDataset(files, shardshuffle=100, seed=SEED).shuffle(100)
    while True:
        for sample in shuffled.decode():
            yield sample["lr.npy"], sample["hr.npy"]


def write_chunks(pairs: list[Pair], folder: Path) -> None:
    from litdata.streaming import Cache

    cache = Cache(str(folder), chunk_bytes=64 << 20)
    for number, (lr, hr) in enumerate(pairs):
        cache[number] = {"lr": lr, "hr": hr}
    cache.done()
    cache.merge()


def read_chunks(uri: str, cache: Path) -> Iterator[Pair]:
    from litdata import StreamingDataset
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # of obstore, which fetches for it
    options = {
        "endpoint_url": os.environ["AWS_ENDPOINT_URL"],
        "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
    }
    dataset = StreamingDataset(
        uri, cache_dir=str(cache), shuffle=True, seed=SEED, storage_options=options
    )
    while True:
        for sample in dataset:
            yield sample["lr"], sample["hr"]


def write_parquet(pairs: list[Pair], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for start in range(0, len(pairs), 64):
        some = pairs[start : start + 64]
        columns = {
            name: pa.FixedShapeTensorArray.from_numpy_ndarray(
                np.stack([pair[side] for pair in some])
            )
            for side, name in enumerate(("lr", "hr"))
        }
        pq.write_table(pa.table(columns), folder / f"{start:08d}.parquet", compression="none")


def read_parquet(uri: str, cache: Path) -> Iterator[Pair]:
    import pyarrow.fs
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    files = pyarrow.fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"])
    data = ray.data.read_parquet(uri.removeprefix("s3://"), filesystem=files)
    while True:
        for batch in data.iter_batches(batch_size=BATCH, local_shuffle_buffer_size=64):
            yield from zip(batch["lr"], batch["hr"], strict=True)


FORMS = {
    "mosaicml-streaming": Form("streaming", write_mds, read_mds),
    "litdata": Form("litdata", write_chunks, read_chunks),
    "webdataset": Form("webdataset", write_tar, read_tar),
    "ray data": Form("ray.data", write_parquet, read_parquet),
}


def crop(pairs: Iterator[Pair], random: np.random.Generator) -> tuple[Any, Any]:
    """A batch of random aligned crops, as tensors."""
    import torch

    lows, highs = [], []
    for _ in range(BATCH):
        lr, hr = next(pairs)
        y, x = (int(random.integers(side - PATCH + 1)) for side in lr.shape[1:])
        lows.append(lr[:, y : y + PATCH, x : x + PATCH])
        y, x, wide = y * SCALE, x * SCALE, PATCH * SCALE
        highs.append(hr[:, y : y + wide, x : x + wide])
    return torch.from_numpy(np.stack(lows)), torch.from_numpy(np.stack(highs))


def measure(name: str, uri: str, cache: Path, steps: int) -> dict[str, float]:
    """Samples per second and per CPU second, children included, of so many steps from the state of the cache."""
    import torch

    torch.set_num_threads(1)
    started, work = time.perf_counter(), cpu_seconds()
    if name == "rayscale":
        from rayscale.data import ScaleStream, ShardCache

        stream = ScaleStream(
            uri, (SCALE,), patch=PATCH, batch=BATCH, seed=SEED, cache=ShardCache(cache)
        )
        for step in range(steps):
            stream.batches(step)
        stream.close()
    else:
        pairs, random = FORMS[name].read(uri, cache), np.random.default_rng(SEED)
        for _ in range(steps):
            crop(pairs, random)
    return {
        "wall": steps * BATCH / (time.perf_counter() - started),
        "cpu": steps * BATCH / (cpu_seconds() - work),
    }


def cpu_seconds() -> float:
    """Of this process and those below it, as far as they live or were waited for."""
    import psutil

    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
        if process == own:
            total += times.children_user + times.children_system
    return total


def make_images(folder: Path, count: int) -> None:
    """Smooth noise, 1056 x 1056: nine sub-images each."""
    import PIL.Image
    from scipy.ndimage import gaussian_filter

    for number in range(count):
        noise = np.random.default_rng(number).normal(size=(1056, 1056, 3))
        pixels = 128 + 500 * gaussian_filter(noise, (1.5, 1.5, 0))
        PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04d}.png")


def write_all(uri: str, count: int, python: str) -> tuple[list[str], float]:
    """Prepare the images in the bucket and write their rows for each loader; which there are, and prepare's MB per CPU second."""
    from rayscale.data import Dataset, PrepareConfig, prepare

    config = PrepareConfig(scales=(SCALE,))
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), count)
        work = cpu_seconds()
        manifest = prepare(folder, f"{uri}/rayscale", config)
        speed = manifest.counts.pixels * 3 / 1e6 / (cpu_seconds() - work)
        local = Path(folder, "set")
        prepare(folder, local, config)
        dataset = Dataset(local, SCALE)
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            lows, highs = zip(*dataset.pairs(range(len(dataset))), strict=True)
            np.savez(file.name, lr=np.stack(lows), hr=np.stack(highs))
            names = ["rayscale"]
            for name in FORMS:
                command = [python, __file__, "-", "--write", name, file.name, f"{uri}/{name}"]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, env=environment()
                )
                if done.returncode == 0:
                    names.append(name)
                else:
                    reason = (done.stderr.strip() or "?").splitlines()[-1]
                    print(f"{name} is left out: {reason}", file=sys.stderr, flush=True)
    return names, speed


def environment() -> dict[str, str]:
    """Of the processes that write and measure: one thread, the rayscale of this process, and a Ray of their own."""
    import rayscale

    package = Path(rayscale.__file__).parents[1]
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**own, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)}


def write_one(name: str, file: str, uri: str) -> None:
    """The pairs of a file in the form of one loader, in the bucket."""
    importlib.import_module(FORMS[name].module)
    arrays = np.load(file)
    pairs = list(zip(arrays["lr"], arrays["hr"], strict=True))
    store = connect(uri)
    with tempfile.TemporaryDirectory() as folder:
        FORMS[name].write(pairs, Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                store.write_file(str(path.relative_to(folder)), path)


def run(name: str, uri: str, steps: int, python: str) -> dict[str, dict[str, float]]:
    """One loader cold and warm, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="loader-") as cache:
        found = {}
        for state in ("cold", "warm"):
            command = [python, __file__, f"{uri}/{name}", "--measure", name, cache, str(steps)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=environment()
            )
            if done.returncode:
                raise RuntimeError(f"{name} {state}: {done.stderr[-500:]}")
            found[state] = strictjson.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("uri", help="s3://bucket/prefix that may be written to")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--steps", type=int, default=60, help="batches of a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="the Python that has the others")
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        _, file, uri = options.uri, options.write[1], options.write[2]
        write_one(options.write[0], file, uri)
        return
    if options.measure:
        name, cache, steps = options.measure
        print(strictjson.dumps(measure(name, options.uri, Path(cache), int(steps))))
        return
    names, speed = write_all(options.uri, options.images, options.python)
    rounds: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in list(rounds):
            try:
                rounds[name].append(run(name, options.uri, options.steps, options.python))
            except RuntimeError as error:  # a loader that cannot read this server hinders no other
                print(f"left out: {error}", file=sys.stderr, flush=True)
                del rounds[name]
    show(rounds)
    print(f"\nprepare: {speed:.1f} MB of HR pixels per CPU second, LR of x{SCALE} and S3 included.")


def show(rounds: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """Medians over the rounds, and ours over theirs round by round."""
    print(
        "| loader | cold: samples/CPU s | samples/s | ours / it | warm: samples/CPU s | samples/s | ours / it |"
    )
    print("|---|---|---|---|---|---|---|")
    ours = rounds["rayscale"]
    for name, theirs in rounds.items():
        cells = []
        for state in ("cold", "warm"):
            ratios = [
                mine[state]["cpu"] / other[state]["cpu"]
                for mine, other in zip(ours, theirs, strict=True)
            ]
            middle = [statistics.median(r[state][kind] for r in theirs) for kind in ("cpu", "wall")]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            cells += [f"{middle[0]:.0f}", f"{middle[1]:.0f}", spread]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
