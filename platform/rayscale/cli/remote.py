"""Commands that a service carries out: ``rayscale upscale --server`` and ``rayscale batch submit|status|cancel``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayscale.cli.console import emit, note
from rayscale.cli.conversion import for_each, is_bucket, match_files
from rayscale.cli.options import JsonOption, takes_options
from rayscale.errors import ConfigError
from rayscale.interruption import COMPLETE, FAILED, PARTIAL
from rayscale.options import Options

if TYPE_CHECKING:
    from rayscale.client import Answer

ServerOption = Annotated[
    str,
    typer.Option(
        metavar="URL", envvar="RAYSCALE_SERVER", help="The service; its key is in RAYSCALE_KEY."
    ),
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Of the batch.")]

_CODES = {"done": COMPLETE, "partial": PARTIAL, "queued": COMPLETE, "running": COMPLETE}


def upscale_elsewhere(
    source: str,
    target: str,
    options: Options,
    server: str,
    model: str | None,
    weights: Path | None,
    json_: bool,
) -> None:
    """Upscale files by a service."""
    from rayscale.client import Client

    if weights is not None:
        raise ConfigError("a service has its own models; name one of them, not a file of weights")
    if is_bucket(source) or is_bucket(target):
        raise ConfigError(
            "a service reads and writes buckets as a batch: rayscale batch submit SOURCE TARGET --server URL"
        )
    options.refuse("uncertainty", "the answer of a service holds one image; leave out --server")
    files = match_files(Path(source), Path(target), options.format)
    with Client(server) as service:

        def upscale_one(source: Path, target: Path) -> Answer:
            return service.upscale(source, target, model=model, **_arguments(options))

        for_each(files, upscale_one, json_)


@takes_options(leave_out=("uncertainty", "format"))
def submit(
    source: Annotated[str, typer.Argument(help="s3://bucket/prefix that the service may read.")],
    target: Annotated[str, typer.Argument(help="s3://bucket/prefix that the service may write.")],
    *,
    options: Options,
    server: ServerOption,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="As GET /v1/models lists it. Default: that of the service."
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take these keys of the source only, one a line."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Do at most N images.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace objects of the target that no batch wrote.")
    ] = False,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="Learns of the end of the batch.")
    ] = None,
    once: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The same text is the same batch, however often sent."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show its progress until it ends.")] = False,
    json_: JsonOption = False,
) -> None:
    """Let a service upscale a bucket; it goes on when this command has ended.

    rayscale batch submit s3://images/inbox s3://images/larger --server https://images.example.org

    With --wait the exit code is that of `rayscale batch`.
    """
    from rayscale.client import Client

    listed = None
    if keys is not None:
        listed = [line for line in keys.read_text(encoding="utf-8").splitlines() if line]
    with Client(server) as service:
        batch: dict[str, Any] = service.submit(
            source,
            target,
            model=model,
            keys=listed,
            limit=limit,
            overwrite=overwrite,
            webhook=webhook,
            idempotency_key=once,
            **_arguments(options),
        )
        if wait:
            note(f"batch {batch['id']}")
            for told in service.watch(batch["id"]):
                note(_line(told))
                batch = told
        elif not json_:
            note(f"follow it:  rayscale batch status {batch['id']} --server {server} --wait")
    _show(batch, json_)


def status(
    batch: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Of a batch; without one, all of yours.")
    ] = None,
    *,
    server: ServerOption,
    wait: Annotated[bool, typer.Option("--wait", help="Show its progress until it ends.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show a batch of a service, or all of yours.

    Exit code: 0 it is done or at work, 3 some inputs failed, 1 it failed or was cancelled.
    """
    from rayscale.client import Client

    with Client(server) as service:
        if batch is None:
            listed = service.batches()
            if json_:
                emit(listed)
            else:
                print("\n".join(map(_line, listed)) or "no batches")
            return
        told = service.batch(batch)
        if wait:
            for told in service.watch(batch):
                note(_line(told))
    _show(told, json_)


def cancel(batch: IdArgument, *, server: ServerOption, json_: JsonOption = False) -> None:
    """Cancel a batch of a service; what is done stays done."""
    from rayscale.client import Client

    with Client(server) as service:
        told = service.cancel(batch)
    if json_:
        emit(told)
    else:
        print(_line(told))


def retry(batch: IdArgument, *, server: ServerOption, json_: JsonOption = False) -> None:
    """Let a service work once more on what failed or was left of a batch."""
    from rayscale.client import Client

    with Client(server) as service:
        _show(service.retry(batch), json_)


def _arguments(options: Options) -> dict[str, Any]:
    """What makes the same options again."""
    return {name: getattr(options, name) for name in options.to_texts()}


def _show(batch: dict[str, Any], json_: bool) -> None:
    if json_:
        emit(batch)
    else:
        print(_line(batch))
        for failure in batch["failures"]:
            print(f"  {failure['key']}  {failure['error']}  {failure['message']}")
    raise typer.Exit(_CODES.get(batch["state"], FAILED))


def _line(batch: dict[str, Any]) -> str:
    counts = batch["counts"]
    parts = [f"{batch['id']}  {batch['state']:9}  {counts['finished']}/{counts['todo']} images"]
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    if batch["megapixels_per_second"]:
        parts.append(f"{batch['megapixels_per_second']:.2f} MP/s")
    if batch["seconds_left"]:
        parts.append(f"about {batch['seconds_left']:.0f} s left")
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(batch["created"]))
    return (
        ", ".join(parts)
        + f"  {batch['source']} -> {batch['target']}  {started}"
        + (f"  {batch['message']}" if batch["message"] else "")
    )
