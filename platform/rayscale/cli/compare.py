"""``rayscale compare``: models side by side on benchmarks, on Ray. The work is ``rayscale.evaluation.comparison``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rayscale.cli.batch import check_device
from rayscale.cli.console import hint, note
from rayscale.cli.options import (
    ClusterDeviceOption,
    DegradationOption,
    JsonOption,
    ProtocolOption,
    SuiteOption,
)
from rayscale.errors import ConfigError

if TYPE_CHECKING:
    from rayscale.evaluation.comparison import Comparison
    from rayscale.evaluation.table import Entry


def compare(
    model: Annotated[
        list[str],
        typer.Option("--model", "-m", metavar="NAME[=WEIGHTS]", help="A model; repeatable."),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="URI", help="A benchmark: folder or s3:// with HR/ and LR/; repeatable."
        ),
    ],
    scale: Annotated[
        list[float], typer.Option("--scale", "-s", help="How many times larger; repeatable.")
    ],
    *,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights file, with one --model that names its system."),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Score the self-ensemble (+) of each model too.")
    ] = False,
    protocol: ProtocolOption = "edsr-paper-y",
    suite: SuiteOption = None,
    degradation: DegradationOption = None,
    device: ClusterDeviceOption = "auto",
    output: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Folder or s3://... for the tables, plots and crops."),
    ] = None,
    crops: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE[:x,y,w,h]",
            help="Show this image's window, in HR pixels; repeatable. Default: where the models differ most.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Score models on benchmarks, side by side on Ray: the table of the EDSR paper, with published figures beside.

    rayscale compare -m bicubic -m edsr@production --data Set5/x2 --data Set14/x2 -s 2

    rayscale compare -m aplus -m edsr-baseline --data "Set5/x{scale}" -s 2 -s 3 --output results --crops "img_001_SRF_{scale}"

    A benchmark holds HR/ and LR/ of one scale, or HR/ and LR_bicubic/X2, X3, ... as DIV2K and EDSR-PyTorch do; HR is
    cropped to scale times LR. {scale} stands for the scale in any --data, --model and --crops. Models are built-in
    ones, registered references, systems that are bundled (aplus), or SYSTEM=WEIGHTS with a file that this process can
    read; one that does not serve a scale has no figure there. --output saves table.md, table.json, plots and crops.
    With MLFLOW_TRACKING_URI set, all of that becomes an MLflow run too.
    """
    check_device(device)
    from rayscale.evaluation.suites import check_measures

    check_measures(protocol, suite)
    if weights is not None:
        if len(model) > 1:
            raise ConfigError(
                "--weights goes with one --model; with several use --model SYSTEM=WEIGHTS"
            )
        model = [f"{model[0]}={weights}"]
    if crops and output is None:
        raise ConfigError("--crops needs an --output to save the pictures in")
    with hint("the same command starts over"):
        from rayscale.evaluation.comparison import Comparison

        comparison = Comparison(model, data, scale, ensemble, protocol, suite, device, degradation)
        _ = comparison.how  # an unknown one is an error before any work
        score(comparison, output, crops or [], json_)


def score(comparison: Comparison, output: str | None, wanted: Sequence[str], json_: bool) -> None:
    """Score, print, save, draw, log: in this order, so that what fails costs nothing but itself.

    Args:
        output: folder or ``s3://...`` for the files.
        wanted: the crops, each ``IMAGE`` or ``IMAGE:x,y,w,h``.
    """
    from rayscale import cluster
    from rayscale.evaluation import check_scales, plots, table
    from rayscale.evaluation.comparison import draw_crops, find_crops, open_models, score_all

    for data in comparison.data if comparison.how is None else ():
        check_scales(data, comparison.scales)
    crops = list(find_crops(comparison, wanted))
    cluster.connect()
    contenders = open_models(comparison)
    entries = score_all(comparison, contenders)
    print(table.to_json(entries) if json_ else table.to_markdown(entries).rstrip())
    files = {
        "table.md": table.to_markdown(entries).encode(),
        "table.json": table.to_json(entries).encode(),
    }
    tracked = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    if output:
        save(output, files)
    if output or tracked:
        pictures = {
            "psnr_parameters.png": plots.over_parameters(entries),
            "psnr_seconds.png": plots.over_seconds(entries),
            **draw_crops(comparison, crops, contenders),
        }
        if output:
            save(output, pictures)
        files |= pictures
    if tracked:
        log(comparison, entries, files)


def save(uri: str, files: dict[str, bytes]) -> None:
    from rayscale.storage import connect

    store = connect(uri)
    for name, content in files.items():
        store.write(name, content)


def log(comparison: Comparison, entries: Sequence[Entry], files: dict[str, bytes]) -> None:
    """The tables, figures and pictures as an MLflow run."""
    from rayscale.registry import log_evaluation

    metrics: dict[str, float] = {}
    for entry in entries:
        report = entry.report
        name = f"{entry.dataset}/x{report.scale:g}/{report.model.replace('+', '-plus')}"
        values = {"psnr": report.psnr, "ssim": report.ssim, **report.measures}
        metrics |= {f"{name}/{key}": value for key, value in values.items()}
    sets = ", ".join(dict.fromkeys(entry.dataset for entry in entries))
    scales = ", ".join(f"x{scale:g}" for scale in dict.fromkeys(comparison.scales))
    run_id = log_evaluation(
        f"{sets} {scales}",
        params={
            "models": ", ".join(comparison.models),
            "data": ", ".join(comparison.data),
            "protocol": comparison.protocol,
            **({"degradation": comparison.degradation} if comparison.degradation else {}),
            **({"suite": comparison.suite} if comparison.suite else {}),
        },
        metrics=metrics,
        files=files,
    )
    note(f"MLflow run {run_id}")
