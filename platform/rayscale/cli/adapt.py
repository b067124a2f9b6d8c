"""``rayscale adapt``: a bundled model to somebody's own images. The work is ``rayscale.tuning.adaptation``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from rayscale.cli.console import emit, note, print_table
from rayscale.cli.images import open_named
from rayscale.cli.options import JsonOption, OverridesOption, WeightsOption
from rayscale.errors import ConfigError

if TYPE_CHECKING:
    from rayscale.tuning.adaptation import Adaptation


def adapt(
    source: Annotated[str, typer.Argument(metavar="IMAGES", help="Your images: folder or s3://.")],
    target: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="Folder or s3:// for all that is made.")
    ],
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", help="The model to start from; one of one scale.")
    ] = "edsr-baseline-x2",
    weights: WeightsOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the training.")] = 500,
    held_out: Annotated[
        float, typer.Option(help="Share of the images that the figures are of; never trained on.")
    ] = 0.2,
    degradation: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="Makes the small images: bicubic, mtf:sensor=sentinel-2, kspace, ...",
        ),
    ] = "bicubic",
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="Register the result, if it wins.")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="Alias to move to it.")] = None,
    overrides: OverridesOption = None,
    json_: JsonOption = False,
) -> None:
    """Adapt a bundled model to your own images: hold some out, shrink the others, train, and compare.

    rayscale adapt tiles/ adapted/

    rayscale adapt s3://archive/mr s3://models/mr --degradation kspace --steps 2000 --register mr --alias production

    Images of one and of four or more channels start from the RGB network too. The table is at reduced resolution, on held-out
    images that no step has seen: bicubic, what there was, adapted. --register refuses a model that is not ahead of each of them
    in mean PSNR and on most of the images. The same command resumes.
    """
    check_registry(register, alias)
    from rayscale import cluster
    from rayscale.degradations import Degradation
    from rayscale.training import ray
    from rayscale.tuning.adaptation import adapt as run

    how = Degradation.parse(degradation)
    base = open_named(model, weights, None)
    note(f"ray: {cluster.connect()}")
    adaptation = run(
        source,
        target,
        base,
        ray.fit,
        steps=steps,
        share=held_out,
        degradation=how,
        overrides=overrides or (),
    )
    if json_:
        emit(adaptation.to_dict())
    else:
        show(adaptation)
    if register is not None:
        publish(adaptation, register, alias)


def check_registry(name: str | None, alias: str | None) -> None:
    """What would fail at the end fails before the training."""
    if name is None and alias is not None:
        raise ConfigError(f"--alias {alias} needs --register NAME, the model that it points to")
    if name is not None:
        from rayscale.registry import check_name

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise ConfigError("--register needs MLFLOW_TRACKING_URI, the server with the registry")
        check_name(name, alias)


def publish(adaptation: Adaptation, name: str, alias: str | None) -> None:
    """Register the weights with their figures; raises NoGainError where they do not win."""
    from rayscale import registry

    adaptation.require_gain()
    version = registry.publish(
        adaptation.weights,
        name,
        alias=alias,
        scores={"held-out": adaptation.reports[-1].to_dict()},
        dataset_digest=adaptation.dataset_digest,
        description=adaptation.summary,
    )
    print(f"registered {version.ref}")


def show(adaptation: Adaptation) -> None:
    """Print the table, and whether it was worth it."""
    from rich.table import Table

    first = adaptation.reports[0]
    measures = list(first.measures)
    table = Table("model", "PSNR dB", "SSIM", *measures)
    for report in adaptation.reports:
        more = [f"{report.measures[name]:.4g}" for name in measures]
        table.add_row(report.model, f"{report.psnr:.3f}", f"{report.ssim:.4f}", *more)
    table.caption = (
        f"{adaptation.held_out} held-out images at reduced resolution ({first.degradation}, x{first.scale:g}, "
        f"{first.protocol}); {adaptation.trained} trained on"
    )
    print_table(table)
    print("the adapted model wins" if adaptation.wins else "the adapted model does NOT win")
    print(f"weights: {adaptation.weights}")
