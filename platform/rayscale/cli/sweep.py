"""``rayscale sweep``: search settings of the training. The work is ``rayscale.tuning``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayscale.cli.console import hint, note, print_table
from rayscale.cli.options import OverridesOption
from rayscale.errors import RayscaleError
from rayscale.interruption import COMPLETE, FAILED, PARTIAL

if TYPE_CHECKING:
    from rayscale.tuning.sweep import Sweep


def sweep(
    *,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Base configuration, as for `rayscale train`."),
    ] = None,
    overrides: OverridesOption = None,
    space: Annotated[
        str, typer.Option(help="edsr: residual scaling and learning rate; lr: learning rate.")
    ] = "edsr",
    samples: Annotated[int, typer.Option(help="Trials.")] = 8,
    steps: Annotated[int, typer.Option(help="Steps of a whole trial.")] = 1000,
    concurrent: Annotated[
        int | None,
        typer.Option(help="Trials at a time. Default: as many as the cluster has room for."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 1,
    output: Annotated[
        str, typer.Option(metavar="FILE", help="The best configuration: a path or s3://...")
    ] = "best.yaml",
) -> None:
    """Search residual scaling and learning rate of EDSR with Ray Tune; bad trials are stopped early (ASHA).

    rayscale sweep --set data.uri=s3://bucket/dataset --set validation.uri=s3://bucket/Set5/x2 --samples 32

    rayscale train --config best.yaml

    A trial is a small Ray Train run below run.uri. Run the same command again to resume: finished
    trials are read from storage, others resume. Trials are compared by PSNR where validation.uri is set, else by loss.

    Exit code: 0 complete, 3 some trials failed, 1 all failed, 2 wrong usage or configuration.
    """
    with hint("every trial is saved; run the same command again to resume"):
        from rayscale.storage import connect, split
        from rayscale.tuning.sweep import plan

        connect(split(output)[0])  # a wrong one is told before the trials
        planned = plan(
            config,
            overrides or [],
            space=space,
            samples=samples,
            steps=steps,
            seed=seed,
            concurrent=concurrent,
        )
        raise typer.Exit(find_best(planned.identified(), output))


def find_best(sweep: Sweep, output: str) -> int:
    """Search, show the trials, and write the best configuration; the exit code."""
    from rayscale.storage import connect, split
    from rayscale.training.run import lease_of
    from rayscale.tuning import search
    from rayscale.tuning.sweep import best_config

    folder, name = split(output)
    with lease_of(f"{sweep.base.run.uri}/{sweep.name}"):
        benchmark = sweep.benchmark
        rows = search.search(sweep)
    show(sweep, rows)
    if sweep.benchmark != benchmark:
        raise RayscaleError(
            f"the images at {sweep.base.validation.uri} changed during the sweep, so its trials cannot be compared; run "
            "the same command again to score them on the images as they are now"
        )
    if rows[0]["error"]:
        note("error: no trial came to a result")
        return FAILED
    connect(folder).write(name, best_config(sweep, rows[0]).to_yaml().encode())
    print(f"best configuration: {output}\n  rayscale train --config {output}")
    return COMPLETE if not any(row["error"] for row in rows) else PARTIAL


def show(sweep: Sweep, rows: list[dict[str, Any]]) -> None:
    """The trials as a table, the best first."""
    from rich.table import Table

    names = sorted({name for row in rows for name in row["values"]})
    table = Table(title=sweep.name)
    for name in (*names, "step", "loss", "psnr", "ssim", "status"):
        table.add_column(name, justify="right")
    for row in rows:
        stopped = row.get("step", 0) < sweep.trial.optimizer.steps
        status = "failed" if row["error"] else "stopped early" if stopped else "complete"
        cells = [f"{row['values'][name]:.3g}" for name in names]
        cells += [
            f"{row[key]:.4g}" if key in row else "" for key in ("step", "loss", "psnr", "ssim")
        ]
        table.add_row(*cells, status)
    print_table(table)
    for error in sorted({row["error"] for row in rows} - {""}):
        note(f"failed: {error}")
