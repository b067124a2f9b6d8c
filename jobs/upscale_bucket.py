"""Upscale every image of a bucket into another place; run it again and it goes on where it was.

Laptop (a Ray of its own for the time of the job; folders work as well as buckets):

    python jobs/upscale_bucket.py s3://photos/in s3://photos/out --model edsr@production --scale 2
    python jobs/upscale_bucket.py pictures/in pictures/out --model bicubic --scale 2

A part of a bucket, and first what it would cost (no worker starts, nothing is written):

    python jobs/upscale_bucket.py 's3://photos/2024/**/*.tif' s3://photos/out --model edsr@production --dry-run
    python jobs/upscale_bucket.py s3://photos/in s3://photos/out --model edsr@production --keys keys.txt

Cluster (started in the repository, or anywhere with the flag):

    ray job submit -- python jobs/upscale_bucket.py s3://photos/in s3://photos/out --model edsr@production
    ray job submit --working-dir . -- python jobs/upscale_bucket.py s3://photos/in s3://photos/out --model edsr/3

Names and formats stay. Inputs whose output is there, from the same source and by the same model and parameters,
are skipped; failures are listed with their reason and tried again by the next run. What no batch wrote is never
replaced, unless with --overwrite. Rows of all inputs are in _rayscale/ of the target (docs/batch.md). Stores, registry and cluster
come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_URI and RAY_ADDRESS.

Exit codes: 0 all inputs are done; 3 some failed (or are beyond --limit); 1 nothing could be done; 2 wrong usage;
130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale import interruption, strictjson
from rayscale.batch import Forecast, Progress, Summary, forecast_bucket, upscale_bucket
from rayscale.errors import RayscaleError
from rayscale.fields import choices_of
from rayscale.options import Options

_PROGRESS_S = 2.0
_LISTED = 50


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    start, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=start, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "source",
        help="s3://bucket/prefix or folder of the images, or one image; with * ? [] ** those that match",
    )
    add(
        "target", help="s3://bucket/prefix or folder of the results; beside the source or inside it"
    )
    add(
        "--model",
        required=True,
        help="NAME, NAME@ALIAS or NAME/VERSION of the registry, or a built-in model",
    )
    for each in choices_of(Options):
        kind: dict[str, Any] = {"action": "store_true"}
        if each.kind is not bool:
            kind = {
                "default": each.default,
                "metavar": each.metavar or "|".join(each.choices) or None,
            }
        add(f"--{each.name}", help=each.help.replace("%", "%%"), **kind)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: GPUs if any")
    add(
        "--actors",
        type=int,
        help="most workers (default: one per GPU, or one per CPU, as the cluster grows)",
    )
    add(
        "--keys",
        metavar="FILE",
        help="take these keys of the source only: a path or s3://..., text, .jsonl or .parquet",
    )
    add("--limit", type=int, metavar="N", help="do at most N images in this run")
    add(
        "--retry-failed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="try the failures of earlier runs again (the default)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace objects of the target that no batch wrote, instead of failing on them",
    )
    add("--dry-run", action="store_true", help="say what would be done, and what it would cost")
    add("--json", action="store_true", help="the result as JSON, and nothing else, on stdout")
    return parser.parse_args(arguments)


def show_progress() -> Callable[[Progress], None]:
    """A function that prints a line to stderr from time to time."""
    first: Progress | None = None
    last = -_PROGRESS_S

    def show(now: Progress) -> None:
        nonlocal first, last
        started = now.finished or now.windows
        if started:
            first = first or now
        if time.monotonic() - last < _PROGRESS_S and now.finished < now.todo:
            return
        last = time.monotonic()
        line = f"{now.finished}/{now.todo} images; starting the workers ..."
        print(progress_line(first, now) if started and first else line, file=sys.stderr, flush=True)

    return show


def progress_line(first: Progress, now: Progress) -> str:
    """How far, how fast since ``first``, and how long still: by bytes, as images differ in size."""
    line = f"{now.finished}/{now.todo} images, "
    if now.windows_todo:
        line += f"{now.windows}/{now.windows_todo} windows of a scene, "
    line += f"{now.megapixels:.1f} MP"
    line += f", {now.failed} failed" if now.failed else ""
    seconds = now.seconds - first.seconds
    if now.bytes > first.bytes and seconds > 0:  # the start of the workers says nothing of speed
        left = seconds * (now.bytes_todo - now.bytes) / (now.bytes - first.bytes)
        line += "; "
        if not now.windows_todo:
            line += f"{(now.finished - first.finished) / seconds:.2f} images/s, "
        line += f"{(now.megapixels - first.megapixels) / seconds:.2f} MP/s, about {left:.0f} s left"
    return line


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
    notes = [f"{row.key}: {text}" for row in summary.noted for text in row.notes]
    if notes:
        lines += ["", "notes", *notes[:_LISTED]]
        if len(notes) > _LISTED:
            lines.append(f"... and {len(notes) - _LISTED} more; --json lists all")
    return "\n".join(lines)


def outlook(forecast: Forecast) -> str:
    """The forecast as text."""
    skipped = [
        f"{count} {what}"
        for count, what in (
            (forecast.done, "done before"),
            (forecast.kept, "failures left alone"),
            (forecast.missing, "not found or refused"),
            (forecast.left, "left by --limit"),
            (forecast.ignored, "objects passed over"),
        )
        if count
    ]
    sampled = forecast.headers < forecast.todo
    lines = [
        f"{forecast.source} -> {forecast.target} by {forecast.model} x{forecast.scale}",
        f"images      {forecast.todo} of {forecast.total} to do"
        + (f" ({', '.join(skipped)})" if skipped else ""),
        f"megapixels  {'about ' * sampled}{forecast.megapixels:.3g}, from {forecast.headers} headers"
        + (
            f", {forecast.unreadable} of them unreadable or too large"
            if forecast.unreadable
            else ""
        )
        + (
            f", {forecast.unknown} not found and taken for the mean of the others"
            if forecast.unknown
            else ""
        ),
        f"time        about {forecast.seconds:.3g} s with {forecast.workers} workers, after {forecast.seconds_from}",
        f"output      about {forecast.output_bytes / 1e6:.3g} MB, after {forecast.output_bytes_from}",
    ]
    if forecast.occupied:
        lines.append(
            f"occupied    {forecast.occupied} outputs are there without a row: those that a batch wrote are taken or renewed, "
            "others fail (see --overwrite)"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the job; the exit code."""
    options = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    result = sys.stdout
    with redirect_stdout(sys.stderr):  # Ray reports the death of a worker on standard output
        return interruption.run(
            lambda: upscale(options, result),
            "" if options.dry_run else "what is done is kept; run the same command again to resume",
        )


def upscale(options: argparse.Namespace, result: TextIO) -> int:
    """Do as the options say and write the outcome to ``result``; the exit code."""
    common: dict[str, Any] = {
        "model": options.model,
        "keys": options.keys,
        "device": options.device,
        "actors": options.actors,
        "limit": options.limit,
        "retry_failed": options.retry_failed,
    }
    outcome: Forecast | Summary
    try:
        texts = {each.name: getattr(options, each.name) for each in choices_of(Options)}
        common["options"] = Options.parse(**texts)
        if options.dry_run:
            outcome = forecast_bucket(options.source, options.target, **common)
        else:
            print(f"upscaling {options.source} with {options.model} ...", flush=True)
            outcome = upscale_bucket(
                options.source,
                options.target,
                **common,
                overwrite=options.overwrite,
                progress=show_progress(),
            )
    except RayscaleError as error:
        if options.json:
            print(strictjson.dumps({"error": error.code, "message": str(error)}), file=result)
        raise
    if options.json:
        text = strictjson.dumps(outcome.to_dict(), indent=2)
    else:
        text = outlook(outcome) if isinstance(outcome, Forecast) else report(outcome)
    print(text, file=result, flush=True)
    return 0 if isinstance(outcome, Forecast) else outcome.exit_code


if __name__ == "__main__":
    code = main()
    sys.stdout = sys.stderr  # whatever Ray still reports while it ends is no part of the result
    sys.exit(code)
