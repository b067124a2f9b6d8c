"""``rayscale export``: a model for another library. The work is ``rayscale.export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayscale.cli.console import emit, print_table
from rayscale.cli.images import open_named
from rayscale.cli.options import JsonOption, WeightsOption
from rayscale.errors import ConfigError

if TYPE_CHECKING:
    from rayscale.export import Exported

KINDS = ("onnx", "openvino", "torch-export", "triton", "mlflow")


def export(
    model: Annotated[
        str, typer.Argument(help="A built-in model, a registered name, or with --weights a system.")
    ],
    output: Annotated[
        Path,
        typer.Argument(
            help="big.onnx, big.xml (OpenVINO), big.pt2 (torch-export), or a folder for triton and mlflow."
        ),
    ],
    *,
    to: Annotated[str, typer.Option(metavar="|".join(KINDS), help="What it is written for.")],
    weights: WeightsOption = None,
    scale: Annotated[
        float | None,
        typer.Option("--scale", "-s", help="Of a model that serves several; a file has one."),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Trunk in integers of 8 bits; needs --calibration and --data."),
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of low-resolution images that calibrates --int8."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URI",
            help="A benchmark (HR/ and LR/) to measure the loss on; repeatable; {scale} stands for the scale.",
        ),
    ] = None,
    limit: Annotated[
        float,
        typer.Option(min=0, help="dB of PSNR that it may lose; beyond, nothing is written."),
    ] = 0.05,
    json_: JsonOption = False,
) -> None:
    """Write a model for ONNX Runtime, OpenVINO, torch.export, Triton or MLflow, and prove what it loses.

    rayscale export edsr-baseline-x2 edsr.onnx --to onnx

    rayscale export edsr-baseline-x2 edsr.xml --to openvino --int8 --calibration photos/ --data Set5/x2 --data Set14/x2

    rayscale export vdsr-x234 models/ --to triton --scale 3

    rayscale upscale photo.png big.png --model edsr-baseline --weights edsr.onnx

    Prints parity with PyTorch, dB on each benchmark, bytes and megapixels per second. The file says what it is: specification,
    scale, halo and levels. SRCNN and VDSR are exported as what follows bicubic on Y, of any size.
    """
    if to not in KINDS:
        raise ConfigError(f"to must be one of {', '.join(KINDS)}, not {to!r}")
    if int8 != (calibration is not None):
        raise ConfigError("--int8 and --calibration DIR go together")
    from rayscale.export import export_model

    opened = open_named(model, weights, scale)
    exported = export_model(
        opened,
        to,  # type: ignore[arg-type]  # checked above
        output,
        scale,
        calibration=calibration,
        data=data or (),
        most_loss=limit,
    )
    if json_:
        emit(exported.to_dict())
    else:
        show(exported)


def show(exported: Exported) -> None:
    """Print what was written and what it costs."""
    from rich.table import Table

    print(f"{exported.path}: {exported.kind}, {exported.precision}, {exported.bytes:,} bytes")
    print(f"largest difference from PyTorch: {exported.parity:.4f} grey levels of 8 bits")
    if exported.losses:
        table = Table("benchmark", "float32 dB", "exported dB", "loss dB")
        for each in exported.losses:
            table.add_row(
                each.data, f"{each.float32:.3f}", f"{each.exported:.3f}", f"{each.db:.3f}"
            )
        print_table(table)
    table = Table("computed by", "source MP/s")
    for name, rate in exported.rates.items():
        table.add_row(name, f"{rate:.3f}")
    print_table(table)
