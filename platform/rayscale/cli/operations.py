"""Commands for those who run rayscale; the work is ``rayscale.operations``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from rayscale.cli.console import emit, note, print_table
from rayscale.cli.options import JsonOption
from rayscale.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

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


def top(
    server: Annotated[
        str | None,
        typer.Option(
            "--prometheus",
            metavar="URL",
            help="Prometheus. Default: RAYSCALE_PROMETHEUS.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="NAME", help="serving, costs, batch, training or cluster; repeatable."
        ),
    ] = None,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show what service, batches, runs and cluster do now, until Ctrl-C: the figures of the dashboards, from Prometheus.

    rayscale up --monitoring   (a Prometheus for one machine)

    rayscale top --only serving
    """
    import time

    from rich.console import Console
    from rich.live import Live

    from rayscale.operations.figures import DASHBOARDS
    from rayscale.settings import get_settings

    names = only or list(DASHBOARDS)
    if unknown := [name for name in names if name not in DASHBOARDS]:
        raise ConfigError(f"unknown dashboard {unknown[0]!r}; use one of {', '.join(DASHBOARDS)}")
    address = server or get_settings().prometheus
    if json_:
        emit({name: dict(_look(address, name)) for name in names})
    elif once:
        print_table(_figures_table(address, names))
    elif not sys.stdout.isatty():  # where nothing can be drawn over
        while True:
            print_table(_figures_table(address, names))
            time.sleep(every)
    else:
        console = Console(markup=False, emoji=False)
        with Live(_figures_table(address, names), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(every)
                live.update(_figures_table(address, names), refresh=True)


def _look(address: str, name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The figures of a dashboard that have data, each with its values by series."""
    from rayscale.operations.figures import DASHBOARDS
    from rayscale.operations.prometheus import ask, show

    for figure in DASHBOARDS[name]:
        series = [each for query in figure.queries for each in ask(address, query)]
        if series:
            yield figure.title, {each.name: show(figure, each.value) for each in series}


def _figures_table(address: str, names: list[str]) -> Table:
    from rich.table import Table

    table = Table("", "figure", "now", box=None, pad_edge=False)
    for name in names:
        first = name
        for title, values in _look(address, name):
            now = ", ".join(f"{series} {value}".strip() for series, value in values.items())
            table.add_row(first, title, now)
            first = ""
    if not table.row_count:
        table.add_row("", "no data yet", "")
    return table


def logs(
    id_: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="X-Request-Id of an answer, `run` of a row, or RAYSCALE_ID of a command.",
        ),
    ],
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET]...",
            help="Targets of batches, whose rows are searched too.",
            show_default=False,
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show all that is known of one id: log lines of every node, rows of batches, runs in MLflow.

    Searches the logs of the local stack, of the cluster of RAY_ADDRESS, and MLflow where MLFLOW_TRACKING_URI is set. Whatever
    begins with RAYSCALE_ID in its environment has that id. Exit code 1 when nothing is found.

    rayscale logs 7d3b1c52a4e84f0c s3://bucket/out
    """
    import os

    from rayscale.operations import logs as known
    from rayscale.settings import get_settings

    wanted = known.check_id(id_)
    lines = known.find_lines(known.local_folders(get_settings().home), wanted)
    if os.environ.get("RAY_ADDRESS") not in (None, "", "local"):
        seen = {line.text for line in lines}
        lines += [line for line in known.find_on_nodes(wanted) if line.text not in seen]
    for target in targets or ():
        lines += known.find_rows(target, wanted)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        lines += known.find_runs(wanted)
    lines.sort(key=lambda line: line.time)
    if json_:
        emit([line.to_dict() for line in lines])
    else:
        for line in lines:
            print(
                " ".join(filter(None, (line.host, line.file.rpartition("/")[2] + ":", line.text)))
            )
    if not lines:
        note(
            f"nothing is known of {wanted}; name the target of its batch, or set RAY_ADDRESS to its cluster"
        )
        raise typer.Exit(1)
