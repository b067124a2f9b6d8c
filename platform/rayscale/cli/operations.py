"""Commands for those who run rayscale; the work is ``rayscale.operations``."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from rayscale.cli.console import emit, note, print_table
from rayscale.cli.options import JsonOption
from rayscale.errors import ConfigError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def doctor(
    place: Annotated[
        str | None,
        typer.Argument(
            help="s3://bucket/prefix or folder where jobs write; its rights are tried.",
            show_default=False,
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Examine this set-up and say what to do: versions, clocks, storage, MLflow, GPUs, disks, limits, token, names.

    Looks at this machine, and at every node of the cluster of RAY_ADDRESS. Exit code 1 when something failed.

    rayscale doctor s3://bucket/prefix
    """
    from rayscale.operations.doctor import examine

    examination = examine(
        place, (lambda _: None) if json_ else lambda what: note(f"looking at {what}")
    )
    if json_:
        emit(examination.to_dict())
    else:
        from rich.table import Table

        table = Table("check", "state", "found", "what to do", box=None, pad_edge=False)
        for each in examination.findings:
            table.add_row(each.check, each.state, each.found, each.advice)
        print_table(table)
    if not examination.healthy:
        raise typer.Exit(1)


def gc(
    places: Annotated[
        list[str],
        typer.Argument(metavar="PLACE...", help="s3://bucket/prefix or folders to search."),
    ],
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is found.")] = False,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Take nothing younger: 90m, 36h or 7d.")
    ] = "1d",
    keep: Annotated[
        int, typer.Option(min=0, help="Newest checkpoints of a finished run that stay.")
    ] = 1,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="checkpoint, shard, window, result or upload; repeatable. Default: all.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show what nothing needs any longer below a place, and what deleting it would free; delete it with --delete.

    Checkpoints that were never committed or whose run is finished, shards that no manifest names, windows of scenes that no
    batch goes on with, results of the page that have ended, and uploads whose writer died. What is in use stays.

    rayscale gc s3://bucket/runs s3://bucket/dataset
    """
    from rayscale.operations import leftovers
    from rayscale.storage import connect

    age_s, rows, size = read_age(older_than), [], 0
    for place in places:
        store = connect(place)
        for found in leftovers.find(store, age_s=age_s, keep=keep, kinds=kind or leftovers.KINDS):
            if delete:
                leftovers.delete(store, found)
            rows.append({**found.to_dict(), "place": store.locate(found.place)})
            size += found.bytes
    if json_:
        emit({"bytes": size, "deleted": delete, "leftovers": rows})
    elif not rows:
        note(f"nothing to delete that is older than {older_than}")
    else:
        from rich.table import Table

        table = Table("kind", "place", "objects", "bytes", "why", box=None, pad_edge=False)
        for row in rows:
            table.add_row(
                row["kind"], row["place"], str(row["objects"]), f"{row['bytes']:,}", row["reason"]
            )
        print_table(table)
        print(f"{'deleted' if delete else 'would free'} {size:,} bytes")
        if not delete:
            note("nothing was deleted; the same command with --delete does it")


def read_age(text: str) -> float:
    """Seconds of ``90m``, ``36h`` or ``7d``. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise ConfigError(
            f"{text!r} is not an age; give a number and a unit, such as 90m, 36h or 7d"
        )
    return float(match[1]) * _SECONDS[match[2]]
