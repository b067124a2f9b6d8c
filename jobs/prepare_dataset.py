"""Cut a bucket or folder of images into training shards, side by side on Ray.

Laptop (an embedded Ray, two folders):
    python jobs/prepare_dataset.py ~/images ~/dataset
Laptop, object storage (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY in the environment):
    python jobs/prepare_dataset.py s3://in/images s3://out/dataset
Cluster:
    ray job submit --working-dir . -- python jobs/prepare_dataset.py s3://in/images s3://out/dataset
Red, green, blue and near infrared of Sentinel-2, from files of 13 bands; x2 only:
    python jobs/prepare_dataset.py s3://in/scenes s3://out/s2 --bands 4 3 2 8 --scales 2
Slices of NIfTI or DICOM, 16 bit from black to white of each volume (or CT's range):
    python jobs/prepare_dataset.py s3://in/mri s3://out/mri --scales 2 3 4
Only x4, smaller sub-images, two images held out:
    python jobs/prepare_dataset.py s3://in/images s3://out/x4 --scales 4 --size 240 --step 144 --exclude 'val/*'

Pairs: HR and LR images of their own, in the layouts of DIV2K, EDSR-PyTorch, BasicSR, RealSR (HR/ and LR_bicubic/X2, ...):
    python jobs/prepare_dataset.py s3://in/DIV2K s3://out/set
    python jobs/prepare_dataset.py s3://in/DIV2K_train_HR s3://out/set --lr s3://in/DIV2K_train_LR_unknown/X2

A GeoTIFF is cut by windows; where pixels are missing, sub-images are taken beside them. Run again after an interruption: finished
shards are kept. A new dataset at the same place replaces the old one, whose shards are deleted. Exit codes: 0 complete, 3 some
images are left out (they are listed, the dataset is usable), 1 no dataset was made, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale import cluster
from rayscale.data import Manifest, PrepareConfig, prepare
from rayscale.data.preparation import ShardRecord, ShardTask
from rayscale.errors import RayscaleError
from rayscale.interruption import COMPLETE, PARTIAL, run
from rayscale.options import parse_levels

LISTED_FAILURES = 20
PATCH = 48  # LR pixels: the default of training


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return run(
        lambda: cut(options), "finished shards are kept; run the same command again to go on"
    )


def cut(options: argparse.Namespace) -> int:
    """Prepare as the options say, and print what is in the dataset."""
    started = time.monotonic()
    if options.levels is not None:
        options.levels = parse_levels(options.levels)
    config = PrepareConfig.create(
        **{
            name: value
            for name, value in vars(options).items()
            if name in PrepareConfig.model_fields and value is not None
        }
    )
    manifest = prepare(
        options.source, options.target, config, run=on_ray(options.concurrency), progress=show
    )
    print(summary(manifest, options.target, time.monotonic() - started))
    return PARTIAL if manifest.failures or manifest.skipped else COMPLETE


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; its defaults are those of ``PrepareConfig``."""
    default = PrepareConfig()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", help="folder or s3://bucket/prefix of images; volumes are their slices")
    add("target", help="folder or s3://bucket/prefix of the dataset")
    add(
        "--scales",
        type=int,
        nargs="+",
        metavar="S",
        help="default: those of the LR images of pairs, otherwise 2 3 4",
    )
    add(
        "--size",
        type=int,
        default=default.size,
        help="HR pixels of a sub-image, default %(default)s",
    )
    add(
        "--step",
        type=int,
        default=default.step,
        help="HR pixels between sub-images, default %(default)s",
    )
    add(
        "--minimum",
        type=int,
        default=default.minimum,
        help="skip images below, default %(default)s HR pixels",
    )
    add(
        "--images-per-shard", type=int, default=default.images_per_shard, help="default %(default)s"
    )
    add(
        "--channels",
        type=int,
        help="channels of every image (1 grey, 3 RGB); default: as most images have",
    )
    add(
        "--bands",
        type=int,
        nargs="+",
        default=(),
        metavar="N",
        help="bands from 1, in this order; default: all",
    )
    add(
        "--levels",
        metavar="BLACK..WHITE",
        help="stored values that are black and white in every measurement, such as 0..10000; default: taken from each file",
    )
    add("--bits", type=int, help="8 or 16; default: as most images have")
    add(
        "--exclude", nargs="+", default=(), metavar="GLOB", help="hold out images whose key matches"
    )
    add(
        "--lr",
        default=default.lr,
        metavar="WHERE",
        help="folder or s3:// prefix of LR images; made: by bicubic, whatever the source has; default: the source's own LR "
        "images if it has pairs",
    )
    add(
        "--registration",
        choices=("check", "trust"),
        default=default.registration,
        help="trust: take pairs although HR and LR do not show the same; default %(default)s",
    )
    add("--concurrency", type=int, help="shards at a time; default: what the cluster takes")
    return parser.parse_args(arguments)


def on_ray(
    concurrency: int | None,
) -> Callable[[Callable[[ShardTask], ShardRecord], Iterable[ShardTask]], Iterator[ShardRecord]]:
    """A runner for ``prepare``: one Ray task per shard, a bounded number at a time.

    Ray retries a task whose worker died. Plain tasks, because Ray Data needs ten seconds more to begin and its
    operators have nothing to add: only names go in and counts come out.
    """

    def work_through(
        function: Callable[[ShardTask], ShardRecord], tasks: Iterable[ShardTask]
    ) -> Iterator[ShardRecord]:
        waiting = list(tasks)[::-1]
        if not waiting:
            return
        print(f"ray: {cluster.connect()}", flush=True)
        import ray

        def work(task: ShardTask) -> ShardRecord | str:
            try:
                return function(task)
            except RayscaleError as error:  # as a value: Ray would bury the message in a traceback
                return str(error)

        remote = ray.remote(work)
        running: list[Any] = []
        try:
            while waiting or running:
                cpus = int(ray.cluster_resources().get("CPU", 1))  # nodes may join
                while waiting and len(running) < (concurrency or max(2, 2 * cpus)):
                    running.append(remote.remote(waiting.pop()))
                done, running = ray.wait(running)
                for record in ray.get(done):
                    if isinstance(record, str):
                        raise RayscaleError(record)
                    yield record
        except ray.exceptions.RayError as error:
            raise RayscaleError(
                f"a shard failed on the cluster: {error}; run the same command again to go on"
            ) from error

    return work_through


def show(done: int, total: int) -> None:
    print(f"shards: {done}/{total}", flush=True)


def summary(manifest: Manifest, target: str, seconds: float) -> str:
    """The result as a table, and the images that are not in it."""
    counts = manifest.counts
    size = sum(column.bytes for shard in manifest.shards for column in shard.columns.values())
    rows = {
        "dataset": f"{target} ({size / 1e6:.1f} MB in {len(manifest.shards)} shards)",
        "images": f"{counts.images} used, {counts.failed} failed, {counts.skipped} without a usable sub-image, "
        f"{counts.ignored} other objects",
        "sub-images": f"{counts.sub_images} of {manifest.config.size} pixels or less, scales "
        + " ".join(f"x{scale}" for scale in manifest.scales),
        "LR images": "those of the pairs" if manifest.lr == "pairs" else "made by bicubic",
        "pixels": f"{counts.pixels / 1e6:.1f} M, {manifest.channels} channels of {manifest.bits} bits",
        "mean": " ".join(f"{value:.4f}" for value in manifest.mean),
        "deviation": " ".join(f"{value:.4f}" for value in manifest.deviation),
        "digest": manifest.digest,
        "time": f"{seconds:.1f} s",
    }
    lines = [f"{name:<12}{value}" for name, value in rows.items()]
    if counts.incomplete:
        lines.append(
            f"{counts.incomplete} sub-images have missing pixels; only complete quarters of them are in"
        )
    for scale in manifest.scales:
        if small := manifest.smaller_than(PATCH * scale):
            lines.append(
                f"{small} of {counts.sub_images} sub-images are smaller than {PATCH * scale} pixels: training at x{scale} with "
                f"data.patch={PATCH} leaves them out"
            )
    for title, listed in (("failed", manifest.failures), ("left out", manifest.skipped)):
        if listed:
            lines.append(f"{title}:")
            lines += [
                f"  {item.key}: {item.error}: {item.message}" for item in listed[:LISTED_FAILURES]
            ]
        if len(listed) > LISTED_FAILURES:
            lines.append(
                f"  ... and {len(listed) - LISTED_FAILURES} more, all in {target}/manifest.json"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
