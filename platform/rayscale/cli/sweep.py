"""``rayscale sweep``: search settings of the training. The work is ``rayscale.tuning``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="What is searched. edsr: residual scaling and learning rate; lr: learning rate; or a file of KEY: RANGE. "
            "Default: the ranges of --search, or edsr.",
        ),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=RANGE",
            help="Search one key; repeatable. RANGE is log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH[:STEP] or choice:A,B,...; "
            "with ` if KEY=VALUE` behind it, only beside that value.",
        ),
    ] = None,
    sampler: Annotated[
        Literal["random", "grid", "tpe", "gp"],
        typer.Option(
            help="What proposes trials: chance, every combination (log and uniform then need points: log:1e-5:1e-2:7), or "
            "Optuna's tree-structured Parzen estimators or Gaussian process."
        ),
    ] = "random",
    scheduler: Annotated[
        Literal["asha", "none", "pbt"],
        typer.Option(
            help="asha stops trials that fall behind; pbt trains a population, whose worst go on from the checkpoints of "
            "the best with changed values."
        ),
    ] = "asha",
    samples: Annotated[
        int | None,
        typer.Option(
            help="Trials, or members of a population. Default: 8, or all of a grid.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of a whole trial.")] = 1000,
    generations: Annotated[
        int,
        typer.Option(help="With pbt: parts of the steps, between which the population changes."),
    ] = 4,
    concurrent: Annotated[
        int | None,
        typer.Option(help="Trials at a time. Default: as many as the cluster has room for."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 1,
    output: Annotated[
        str, typer.Option(metavar="FILE", help="The best configuration: a path or s3://...")
    ] = "best.yaml",
    register_best: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Publish the best trial's weights in the MLflow registry as NAME."
        ),
    ] = None,
    alias: Annotated[
        str | None, typer.Option(help="With --register-best: point this alias to the new version.")
    ] = None,
) -> None:
    """Search training settings with Ray Tune: by default residual scaling and learning rate of EDSR, at random, bad trials
    stopped early (ASHA).

    rayscale sweep --set data.uri=s3://bucket/dataset --set validation.uri=s3://bucket/Set5/x2 --samples 32

    rayscale sweep --set data.uri=s3://bucket/dataset --sampler gp --search optimizer.lr=log:1e-5:1e-2

    rayscale train --config best.yaml

    A trial is a small Ray Train run below run.uri. Run the same command again to resume, with more --samples if you like:
    trials that are finished or were stopped stay so, others resume. Trials are compared by PSNR where validation.uri is
    set, else by loss. Table and pictures are written beside the trials.

    Exit code: 0 complete, 3 some trials failed, 1 all failed, 2 wrong usage or configuration.
    """
    with hint("every trial is saved; run the same command again to resume"):
        from rayscale.cli.train import use_registry
        from rayscale.storage import connect, split
        from rayscale.tuning.sweep import plan

        connect(split(output)[0])  # a wrong one is told before the trials
        planned = plan(
            config,
            overrides or [],
            space=space,
            ranges=search or [],
            sampler=sampler,
            scheduler=scheduler,
            samples=samples,
            steps=steps,
            generations=generations,
            seed=seed,
            concurrent=concurrent,
        )
        use_registry(planned.base, register_best, alias, option="--register-best")
        planned = planned.identified()
        code, best = find_best(planned, output)
        if best and register_best:
            publish_best(planned, best, register_best, alias)
        raise typer.Exit(code)


def find_best(sweep: Sweep, output: str) -> tuple[int, dict[str, Any] | None]:
    """Search, show the trials, and write the best configuration; the exit code, and the best trial if there is one."""
    from rayscale.storage import connect, split
    from rayscale.training.run import lease_of
    from rayscale.tuning import search
    from rayscale.tuning.pictures import keep
    from rayscale.tuning.sweep import best_config

    folder, name = split(output)
    with lease_of(sweep.uri):
        benchmark = sweep.benchmark
        rows = search.search(sweep)
    show(sweep, rows)
    if sweep.benchmark != benchmark:
        raise RayscaleError(
            f"the images at {sweep.base.validation.uri} changed during the sweep, so its trials cannot be compared; run "
            "the same command again to score them on the images as they are now"
        )
    print(f"table and pictures: {keep(sweep, rows)}")
    if rows[0]["error"]:
        note("error: no trial came to a result")
        return FAILED, None
    connect(folder).write(name, best_config(sweep, rows[0]).to_yaml().encode())
    print(f"best configuration: {output}\n  rayscale train --config {output}")
    failed = any(row["error"] for row in rows)
    return PARTIAL if failed else COMPLETE, rows[0]


def publish_best(sweep: Sweep, best: dict[str, Any], name: str, alias: str | None) -> None:
    """Publish the weights of the best trial, those with its best validation score."""
    from rayscale.cli.train import chosen, publish
    from rayscale.registry.tracking import find_run
    from rayscale.training.run import read_result

    if best["state"] != "complete":
        raise RayscaleError(
            f"--register-best: no trial is complete, the best ({best['run']}) was stopped at step {best['step']:.0f}; run "
            "the sweep with --scheduler none, or train its configuration"
        )
    result = chosen(read_result(f"{sweep.base.run.uri}/{best['run']}"), "best")
    run_id = find_run(sweep.base.logging.experiment, best["run"])
    print(f"registered  {publish(replace(result, run_id=run_id), name, alias)}")


def show(sweep: Sweep, rows: list[dict[str, Any]]) -> None:
    """The trials as a table, the best first."""
    from rich.table import Table

    from rayscale.tuning.pictures import cells_of

    header, *cells = cells_of(sweep, rows)
    table = Table(title=sweep.name)
    for name in header:
        table.add_column(name, justify="right")
    for line in cells:
        table.add_row(*line)
    print_table(table)
    for row in rows:
        if row["error"]:
            note(f"failed: {row['run']}: {row['error']}")
