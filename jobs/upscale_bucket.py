"""Upscale every image of a bucket into another place; run it again and it goes on where it was.

Laptop (a Ray of its own for the time of the job; folders work as well as buckets):

    python jobs/upscale_bucket.py s3://photos/in s3://photos/out --model edsr@production --scale 2
    python jobs/upscale_bucket.py pictures/in pictures/out --model bicubic --scale 2

Cluster (started in the repository, or anywhere with the flag):

    ray job submit -- python jobs/upscale_bucket.py s3://photos/in s3://photos/out --model edsr@production
    ray job submit --working-dir . -- python jobs/upscale_bucket.py s3://photos/in s3://photos/out --model edsr/3

Names and formats stay. Inputs whose output is there, from the same source and by the same model and scale,
are skipped; failures are listed with their reason and tried again by the next run. Stores, registry and cluster
come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_URI and RAY_ADDRESS.

Exit code: 0 all inputs are done; 3 some failed (or are beyond --limit); 1 nothing could be done; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale.batch import Progress, Summary, upscale_bucket
from rayscale.errors import ConfigError, RayscaleError

_PROGRESS_S = 2.0
_LISTED = 50


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    start, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=start, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", help="s3://bucket/prefix or folder of the images")
    add("target", help="s3://bucket/prefix or folder of the results; beside the source, not inside")
    add(
        "--model",
        required=True,
        help="NAME, NAME@ALIAS or NAME/VERSION of the registry, or a built-in model",
    )
    add("--scale", type=float, help="enlargement; needed when the model has several")
    add("--ensemble", action="store_true", help="average over 8 orientations, 8 times the work")
    add(
        "--consistency", action="store_true", help="correct results until shrinking gives the input"
    )
    add("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: GPUs if any")
    add("--actors", type=int, help="most workers (default: one per GPU, or one per CPU)")
    add("--only", metavar="PATTERN", help="take keys of this pattern only, as '*.png'")
    add("--limit", type=int, metavar="N", help="do at most N images in this run")
    add(
        "--retry-failed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="try the failures of earlier runs again",
    )
    add("--json", action="store_true", help="the summary as JSON, and nothing else, on stdout")
    return parser.parse_args(arguments)


def show_progress() -> Callable[[Progress], None]:
    """A function that prints a line to stderr from time to time."""
    first: Progress | None = None
    last = 0.0

    def show(now: Progress) -> None:
        nonlocal first, last
        line = f"{now.finished}/{now.todo} images"
        if not now.finished:
            print(f"{line}; starting the workers ...", file=sys.stderr, flush=True)
            return
        first = first or now
        if time.monotonic() - last < _PROGRESS_S and now.finished < now.todo:
            return
        last = time.monotonic()
        line += f", {now.failed} failed" if now.failed else ""
        if now.finished > first.finished:  # the start of the workers says nothing of their speed
            rate = (now.finished - first.finished) / (now.seconds - first.seconds)
            line += f", {rate:.2f} images/s, about {(now.todo - now.finished) / rate:.0f} s left"
        print(line, file=sys.stderr, flush=True)

    return show


def report(summary: Summary) -> str:
    """The summary as text: one line, then a table of the failures."""
    lines = [
        f"{summary.source} -> {summary.target} by {summary.model} x{summary.scale}: {summary.done} done, "
        f"{summary.skipped} skipped (done before), {len(summary.failed)} failed"
        + (f", {summary.left} left by --limit" if summary.left else "")
        + (f", {summary.ignored} passed over" if summary.ignored else "")
        + f" of {summary.total} in {summary.seconds:.1f} s"
    ]
    if summary.failed:
        wide = min(60, max(len(row.key) for row in summary.failed))
        lines += ["", f"{'failed':<{wide}}  {'class':<18}  reason"]
        lines += [
            f"{row.key:<{wide}}  {row.error:<18}  {row.message}" for row in summary.failed[:_LISTED]
        ]
        if len(summary.failed) > _LISTED:
            lines.append(f"... and {len(summary.failed) - _LISTED} more; --json lists all")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the job; the exit code."""
    options = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    print(f"upscaling {options.source} with {options.model} ...", file=sys.stderr, flush=True)
    try:
        summary = upscale_bucket(
            options.source,
            options.target,
            model=options.model,
            scale=options.scale,
            ensemble=options.ensemble,
            consistency=options.consistency,
            precision=options.precision,
            device=options.device,
            actors=options.actors,
            only=options.only,
            limit=options.limit,
            retry_failed=options.retry_failed,
            progress=show_progress(),
        )
    except RayscaleError as error:
        if options.json:
            print(json.dumps({"error": error.code, "message": str(error)}))
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    print(json.dumps(summary.to_dict(), indent=2) if options.json else report(summary))
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
