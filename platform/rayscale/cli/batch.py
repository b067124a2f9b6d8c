"""``rayscale batch``: a bucket or a folder on Ray Data. The work is ``rayscale.batch``; here is how to ask for it and
what is shown."""

from __future__ import annotations

import atexit
import functools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from rayscale.cli.console import emit, hint
from rayscale.cli.options import ClusterDeviceOption, JsonOption, WeightsOption, takes_options
from rayscale.errors import ConfigError, RayscaleError, quantity
from rayscale.options import Options

if TYPE_CHECKING:
    from rayscale.batch import Forecast, Progress, Summary

_PROGRESS_S = 2.0
_LISTED = 50


def check_device(device: str) -> None:
    """Raise ConfigError for a device that workers of a cluster cannot be asked for."""
    known = ("auto", "cpu", "cuda")
    if device not in known:
        raise ConfigError(f"unknown device {device!r}; use one of {', '.join(known)}")


def tells_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """With ``--json`` an error is JSON on standard output too; those of the options included."""

    @functools.wraps(command)
    def run(*places: Any, **arguments: Any) -> Any:
        try:
            return command(*places, **arguments)
        except RayscaleError as error:
            if arguments["json_"]:
                emit({"error": error.code, "message": str(error)})
            raise

    return run


@tells_errors
@takes_options()
def batch(
    source: Annotated[
        str,
        typer.Argument(
            help="s3://bucket/prefix or folder of the images, or one image; with * ? [] ** the images that match."
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            help="s3://bucket/prefix or folder of the results; beside the source or inside it."
        ),
    ],
    *,
    options: Options,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="NAME, NAME@ALIAS or NAME/VERSION of the registry, or a built-in model.",
        ),
    ],
    weights: WeightsOption = None,
    device: ClusterDeviceOption = "auto",
    actors: Annotated[
        int | None,
        typer.Option(
            help="Largest number of workers. Default: one per GPU, or one per CPU, as the cluster grows.",
            show_default=False,
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="List of the keys of the source to take: a path or s3://..., text, .jsonl or .parquet.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Do at most N images in this run.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option(help="Try the failures of earlier runs again.")
    ] = True,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace objects of the target that no batch wrote, instead of failing on them.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what would be done and what it would cost, without doing it."
        ),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Upscale every image of a bucket or folder into another place; run it again to resume.

    rayscale batch s3://photos/in s3://photos/out --model edsr@production --dry-run

    rayscale batch s3://photos/in s3://photos/out --model edsr@production

    Names and formats stay. Inputs whose output is there, from the same source and by the same model and parameters,
    are skipped; failures are listed with their reason and tried again by the next run. Objects that no batch wrote are never
    replaced, except with --overwrite. Rows of all inputs are in _rayscale/ of the target.

    Exit code: 0 all inputs are done, 3 some failed or are beyond --limit, 1 nothing could be done, 2 wrong usage.
    """
    code = run_batch(
        source,
        target,
        options,
        model=model,
        weights=weights,
        device=device,
        json_=json_,
        dry_run=dry_run,
        overwrite=overwrite,
        keys=keys,
        actors=actors,
        limit=limit,
        retry_failed=retry_failed,
    )
    raise typer.Exit(code)


def run_batch(
    source: str,
    target: str,
    options: Options,
    *,
    model: str,
    device: str = "auto",
    json_: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    **more: Any,
) -> int:
    """Upscale or forecast and show the outcome; the exit code. ``more`` is handed on to either."""
    check_device(device)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    more |= {"model": model, "options": options, "device": device}
    kept = "what is done is kept; run the same command again to resume"
    with result_alone() as result, hint("" if dry_run else kept):
        from rayscale.batch import forecast_bucket, upscale_bucket

        if dry_run:
            forecast = forecast_bucket(source, target, **more)
            text, code = outlook(forecast), 0
            values = forecast.to_dict()
        else:
            print(f"upscaling {source} with {model} ...", flush=True)
            summary = upscale_bucket(
                source, target, **more, overwrite=overwrite, progress=show_progress()
            )
            text, code = report(summary), summary.exit_code
            values = summary.to_dict()
        if json_:
            emit(values, result)
        else:
            print(text, file=result, flush=True)
    return code


@contextmanager
def result_alone() -> Iterator[TextIO]:
    """Standard output, for the result alone: Ray reports the death of a worker there, also while it ends."""
    result = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield result
    finally:
        atexit.register(
            setattr, sys, "stdout", sys.stderr
        )  # before the end of Ray, which was there first


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
        f"{quantity(count, noun) if noun else count} {what}"
        for count, noun, what in (
            (forecast.done, "", "done before"),
            (forecast.kept, "failure", "left alone"),
            (forecast.missing, "", "not found or refused"),
            (forecast.left, "", "left by --limit"),
            (forecast.ignored, "object", "passed over"),
        )
        if count
    ]
    sampled = forecast.headers < forecast.todo
    lines = [
        f"{forecast.source} -> {forecast.target} by {forecast.model} x{forecast.scale}",
        f"images      {forecast.todo} of {forecast.total} to do"
        + (f" ({', '.join(skipped)})" if skipped else ""),
        f"megapixels  {'about ' * sampled}{forecast.megapixels:.3g}, from {quantity(forecast.headers, 'header')}"
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
        f"time        about {forecast.seconds:.3g} s with {quantity(forecast.workers, 'worker')}, after {forecast.seconds_from}",
        f"output      about {forecast.output_bytes / 1e6:.3g} MB, after {forecast.output_bytes_from}",
    ]
    if forecast.occupied:
        lines.append(
            f"occupied    {quantity(forecast.occupied, 'output')} without a row: what a batch wrote is taken or renewed, anything "
            "else fails (see --overwrite)"
        )
    return "\n".join(lines)
