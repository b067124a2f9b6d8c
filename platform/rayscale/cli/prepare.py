"""``rayscale prepare``: images to training shards, side by side on Ray. The work is ``rayscale.data``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayscale.cli.console import hint
from rayscale.errors import RayscaleError, quantity
from rayscale.interruption import COMPLETE, PARTIAL

if TYPE_CHECKING:
    from rayscale.data import Manifest
    from rayscale.data.tasks import ShardRecord, ShardTask

LISTED_FAILURES = 20
PATCH = 48  # LR pixels: the default of training


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or s3://bucket/prefix of images; volumes are their slices.",
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(help="Folder or s3://bucket/prefix of the dataset."),
    ],
    *,
    scales: Annotated[
        list[int] | None,
        typer.Option(
            metavar="S ...", help="Default: those of the LR images of pairs, otherwise 2 3 4."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="HR pixels of a sub-image. Default: 480.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="HR pixels between sub-images. Default: 288.")
    ] = None,
    minimum: Annotated[
        int | None, typer.Option(help="Skip images that are smaller, in HR pixels. Default: 96.")
    ] = None,
    images_per_shard: Annotated[
        int | None, typer.Option(help="Most images of a shard. Default: 32.")
    ] = None,
    shard_bytes: Annotated[
        int | None,
        typer.Option(help="HR bytes after which a further shard begins. Default: 1 GiB."),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            help="Channels of every image (1 grey, 3 RGB). Default: those of most images."
        ),
    ] = None,
    bands: Annotated[
        list[int] | None,
        typer.Option(metavar="N ...", help="Bands from 1, in this order. Default: all."),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            metavar="BLACK..WHITE",
            help="Stored values that are black and white in every measurement, such as 0..10000. "
            "Default: taken from each file.",
        ),
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="8 or 16. Default: those of most images.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB ...", help="Hold out images whose key matches."),
    ] = None,
    lr: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Folder or s3:// prefix of LR images; made: from the HR images, whatever the source has. "
            "Default: the source's own LR images if it has pairs.",
        ),
    ] = None,
    degradation: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="How LR images are made: bicubic, mtf:sensor=sentinel-2, kspace, blur_noise_jpeg, ... Default: bicubic.",
        ),
    ] = None,
    registration: Annotated[
        str | None,
        typer.Option(
            metavar="check|trust",
            help="check leaves out pairs whose HR and LR images do not match; trust takes them. Default: check.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(help="Shards made at a time. Default: as many as the cluster has room for."),
    ] = None,
) -> None:
    """Cut a bucket or folder of images into training shards, side by side on Ray.

    rayscale prepare s3://bucket/images s3://bucket/dataset

    rayscale prepare s3://in/scenes s3://out/s2 --bands 4 3 2 8 --scales 2

    rayscale prepare s3://in/scenes s3://out/s2 --bands 4 3 2 --degradation mtf:sensor=sentinel-2,bands=B4/B3/B2

    rayscale prepare s3://in/DIV2K_train_HR s3://out/set --lr s3://in/DIV2K_train_LR_unknown/X2

    Pairs of HR and LR images are found in the layouts of DIV2K, EDSR-PyTorch, BasicSR and RealSR. A GeoTIFF is cut by
    windows; where pixels are missing, sub-images are taken beside them. Run the same command again after an
    interruption: finished shards are kept. A new dataset at the same place replaces the old one, whose shards are
    deleted.

    Exit code: 0 complete, 3 some images are left out and listed, 1 no dataset was made, 2 wrong usage.
    """
    options: dict[str, Any] = {
        "scales": scales,
        "size": size,
        "step": step,
        "minimum": minimum,
        "images_per_shard": images_per_shard,
        "shard_bytes": shard_bytes,
        "channels": channels,
        "bands": bands,
        "bits": bits,
        "exclude": exclude,
        "lr": lr,
        "degradation": degradation,
        "registration": registration,
    }
    with hint("finished shards are kept; run the same command again to resume"):
        raise typer.Exit(cut(source, target, options, levels, concurrency))


def cut(
    source: str,
    target: str,
    options: dict[str, Any],
    levels: str | None = None,
    concurrency: int | None = None,
) -> int:
    """Prepare with those of ``options`` that are given, and print what is in the dataset; the exit code."""
    from rayscale.data import PrepareConfig
    from rayscale.data import prepare as prepare_dataset
    from rayscale.options import parse_levels

    started = time.monotonic()
    given = {name: value for name, value in options.items() if value not in (None, [])}
    if levels is not None:
        given["levels"] = parse_levels(levels)
    config = PrepareConfig.create(**given)
    manifest = prepare_dataset(source, target, config, run=on_ray(concurrency), progress=show)
    print(summary(manifest, target, time.monotonic() - started))
    return PARTIAL if manifest.failures or manifest.skipped else COMPLETE


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
        waiting = iter(tasks)
        task = next(waiting, None)
        if task is None:
            return
        import ray

        from rayscale import cluster

        print(f"ray: {cluster.connect()}", flush=True)

        remote = ray.remote(cluster.return_error(function))
        running: list[Any] = []
        try:
            while task is not None or running:
                cpus = int(ray.cluster_resources().get("CPU", 1))  # nodes may join
                while task is not None and len(running) < (concurrency or max(2, 2 * cpus)):
                    running.append(remote.remote(task))
                    task = next(waiting, None)
                done, running = ray.wait(running)
                for record in ray.get(done):
                    yield cluster.raise_error(record)
        except ray.exceptions.RayError as error:
            raise RayscaleError(
                f"a shard failed on the cluster: {error}; run the same command again to resume"
            ) from error

    return work_through


def show(done: int, total: int) -> None:
    print(f"shards: {done}/{total}", flush=True)


def summary(manifest: Manifest, target: str, seconds: float) -> str:
    """The result as a table, and the images that are not in it."""
    counts = manifest.counts
    size = sum(column.bytes for shard in manifest.shards for column in shard.columns.values())
    rows = {
        "dataset": f"{target} ({size / 1e6:.1f} MB in {quantity(len(manifest.shards), 'shard')})",
        "images": f"{counts.images} used, {counts.failed} failed, {counts.skipped} without a usable sub-image, "
        f"{quantity(counts.ignored, 'other object')}",
        "sub-images": f"{counts.sub_images} of {manifest.config.size} pixels or less, scales "
        + " ".join(f"x{scale}" for scale in manifest.scales),
        "LR images": "those of the pairs"
        if manifest.lr == "pairs"
        else f"made by {manifest.degradation}",
        "pixels": f"{counts.pixels / 1e6:.1f} M, {quantity(manifest.channels, 'channel')} of {manifest.bits} bits",
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
                f"  ... and {len(listed) - LISTED_FAILURES} more, all in {target}/manifest/*.parquet"
            )
    return "\n".join(lines)
