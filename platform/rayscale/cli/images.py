"""Commands on images and models that need no server: upscale, degrade, evaluate, models."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayscale import machine
from rayscale.cli.batch import run_batch, tells_errors
from rayscale.cli.console import emit, note, print_table, progress_line
from rayscale.cli.conversion import Files, check_apart, for_each, is_bucket, match_files, names_file
from rayscale.cli.options import (
    DegradationOption,
    JsonOption,
    ProtocolOption,
    SuiteOption,
    WeightsOption,
    takes_options,
)
from rayscale.cli.remote import upscale_elsewhere
from rayscale.models.builtin import DEFAULT_SYSTEMS, default_models
from rayscale.options import Options

if TYPE_CHECKING:
    from rayscale.evaluation import Report
    from rayscale.registry import OpenedModel

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A built-in model, a registered name, or with --weights the system of the file. Without it: edsr-baseline "
        "for images of three channels, aplus for those of any other number.",
        show_default=False,
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")]


def open_named(name: str, weights: Path | None, scale: float | None) -> OpenedModel:
    """The model to use; the hash of a weights file is shown."""
    import torch

    from rayscale.registry import open_model

    torch.set_num_threads(min(torch.get_num_threads(), machine.cpu_count()))  # it knows no quotas
    opened = open_model(name, weights=weights, scale=scale)
    if weights is not None:
        note(f"{weights.name}: sha256 {opened.digest}")
    return opened


def pick_models(model: str | None, weights: Path | None, scale: float | None) -> tuple[str, str]:
    """The names of the models for images of three channels and for others."""
    if model is None and weights is None:
        return default_models(scale)
    name = model or DEFAULT_SYSTEMS[0]
    return name, name


@takes_options()
def upscale(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="An image, a folder or s3://...")],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="File, folder or s3://...")],
    *,
    options: Options,
    model: ModelOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Let this service do the work; its key is in RAYSCALE_KEY. Without --model, its default model.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Upscale a file, a folder or a bucket; names and formats are kept.

    rayscale upscale photo.png big.png

    rayscale upscale photo.png big.png -m edsr-baseline --weights x2.pt -s 2

    rayscale upscale photos/ larger/ -m bicubic -s 4

    rayscale upscale scene.tif big.tif --consistency --uncertainty

    rayscale upscale photos/ larger/ --server https://images.example.org

    rayscale upscale s3://in/photo.png s3://out/big.png   (one object; either may be a file of this machine)

    rayscale upscale s3://in/prefix s3://out/prefix -m NAME@alias   (Ray Data; without -m edsr-baseline for all)

    Exit code: 0 all done, 3 some files failed, 1 nothing could be done, 2 wrong usage.
    """
    if server is not None:
        upscale_elsewhere(source, target, options, server, model, weights, json_)
        return
    remote = is_bucket(source) or is_bucket(target)
    if remote and not names_file(target):
        model, _ = pick_models(model, weights, options.scale)
        code = tells_errors(run_batch)(
            source, target, options, model=model, weights=weights, device=device, json_=json_
        )
        raise typer.Exit(code)

    from rayscale.inference.files import Written, upscale_file, upscale_object
    from rayscale.inference.pipeline import pick_by_channels

    if remote:
        files = Files([(source, target)], [])
    else:
        files = match_files(Path(source), Path(target), options.format)
        if options.uncertainty:
            check_apart(files)
    names = pick_models(model, weights, options.scale)
    pipeline_for = pick_by_channels(
        names, lambda name: open_named(name, weights, options.scale), options, device
    )
    pipeline_for(3)  # a model or a device that cannot be used is one error, not one of each file

    upscale_place = upscale_object if remote else upscale_file

    def upscale_one(source: Any, target: Any) -> Written:
        with progress_line() as show:

            def progress(done: int, count: int) -> None:
                if count > 1:
                    show(f"{source}: {done} of {count} windows")

            return upscale_place(source, target, pipeline_for, progress)

    for_each(files, upscale_one, json_)


def degrade(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image or a folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File or folder to write.")],
    scale: Annotated[int, typer.Option("--scale", "-s", min=1, help="How many times smaller.")] = 2,
    degradation: Annotated[
        str,
        typer.Option(
            metavar="HOW", help="bicubic, mtf:sensor=sentinel-2, kspace, blur_noise_jpeg, ..."
        ),
    ] = "bicubic",
    seed: Annotated[
        int, typer.Option(min=0, help="Of the random numbers of a degradation that draws.")
    ] = 0,
    json_: JsonOption = False,
) -> None:
    """Make low-resolution images: by MATLAB-exact bicubic, as the benchmark sets were made, or by another degradation.

    rayscale degrade photo.png small.png --scale 4

    rayscale degrade scene.tif small.tif --degradation mtf:sensor=sentinel-2,bands=B4/B3/B2

    rayscale degrade photos/ small/ --degradation blur_noise_jpeg:noise=5..15 --seed 7

    The image is cropped to a multiple of the scale first. Exit codes are those of `rayscale upscale`.
    """
    from rayscale.degradations import Degradation, draw
    from rayscale.imaging import convert_image, read_image, write_image
    from rayscale.inference.files import Written, convert_file, heed_sidecars
    from rayscale.inference.pipeline import Output
    from rayscale.pairs import make_lr

    how = Degradation.parse(degradation)

    def smaller(data: bytes, container: str | None) -> Output:
        image = read_image(data)
        if container is not None:
            image = convert_image(image, container)
        # The same picture has the same draw in whichever folder it is.
        image = make_lr(image, scale, how, draw(seed, 0, zlib.crc32(data)))
        size = image.width, image.height
        return Output(write_image(image), image.container, *size, image.notes)

    files = match_files(source, target)

    def convert_one(source: Path, target: Path) -> Written:
        notes = heed_sidecars(source)
        return convert_file(source, target, smaller).with_notes(notes)

    for_each(files, convert_one, json_)


@takes_options(
    leave_out=("levels", "labels", "metadata", "format", "uncertainty"), precision="float32"
)
def evaluate(
    data: Annotated[
        str, typer.Option(help="Folder or s3:// prefix with HR/ and LR/ of the scale.")
    ],
    *,
    options: Options,
    model: ModelOption = None,
    weights: WeightsOption = None,
    protocol: ProtocolOption = "edsr-paper-y",
    suite: SuiteOption = None,
    degradation: DegradationOption = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Score a model on a benchmark: PSNR and SSIM, with the protocol and the degradation they belong to.

    rayscale evaluate -m bicubic --data Set5/x2 -s 2

    rayscale evaluate -m edsr-baseline --weights x2.pt --data Set5/x2 -s 2 --json

    rayscale evaluate -m bicubic --data tiles -s 2 --protocol rgb --suite satellite

    rayscale evaluate -m bicubic --data photos -s 4 --degradation blur_noise_jpeg

    Several models, sets and scales side by side, plots and crops: `rayscale compare`.
    """
    from rayscale.evaluation import SUITES, parse_degradation, read_pairs
    from rayscale.evaluation import evaluate as score
    from rayscale.evaluation.suites import check_measures
    from rayscale.imaging.metrics import PROTOCOLS
    from rayscale.inference import Upscaler

    check_measures(protocol, suite)
    # Grey images by that of colour, as the papers do.
    model, _ = pick_models(model, weights, options.scale)
    upscaler = Upscaler(
        open_named(model, weights, options.scale).network,
        options,
        device=device,
        calibrate=suite is not None,  # figures of papers are of the network alone
    )
    scale = upscaler.scale
    report = score(
        upscaler,
        read_pairs(data, scale, degradation=parse_degradation(degradation)),
        name=model,
        protocol=PROTOCOLS[protocol],
        suite=SUITES[suite] if suite else None,
    )
    if json_:
        emit(report.to_dict())
        return
    system = upscaler.predictor.model.spec.system + "+" * options.ensemble
    show_report(report, data, system, suite)


def show_report(report: Report, data: str, system: str, suite: str | None) -> None:
    """Print scores as tables, with what was published for ``system`` on the set ``data``."""
    from rich.table import Table

    from rayscale.evaluation.published import find, set_name
    from rayscale.evaluation.suites import MEASURES
    from rayscale.imaging.metrics import PROTOCOLS

    caption = f"{report.protocol}: {PROTOCOLS[report.protocol].description}"
    caption += f"\ndegradation: {report.degradation}"
    table = Table("image", "PSNR dB", "SSIM", "s", title=f"{report.model} x{report.scale}")
    for image in report.images:
        table.add_row(image.name, f"{image.psnr:.2f}", f"{image.ssim:.4f}", f"{image.seconds:.2f}")
    table.add_section()
    table.add_row("mean", f"{report.psnr:.2f}", f"{report.ssim:.4f}", "")
    published = find(set_name(data), report.scale, system, report.protocol)
    published = published if report.is_of_the_benchmark else None
    if published is not None:
        ssim = "" if published.ssim is None else f"{published.ssim:.4f}"
        table.add_row("published", f"{published.psnr:.2f}", ssim)
        caption += f"\npublished: {published.source}"
    table.caption = caption
    print_table(table)
    if report.measures:
        table = Table("measure", "mean", "better", title=f"suite {suite}")
        for name, value in report.measures.items():
            measure = MEASURES[name]
            better = "higher" if measure.higher else "lower"
            table.add_row(measure.title, f"{value:.{measure.digits}f}", better)
        print_table(table)


def models(json_: JsonOption = False) -> None:
    """List the systems: scales, parameters, halo (receptive field in input pixels), models with weights."""
    from rayscale.models.builtin import read_card
    from rayscale.models.facts import describe
    from rayscale.models.systems import model_names

    rows = [describe(name) for name in model_names()]
    cards = {name: read_card(name) for row in rows for name in row["bundled"]}
    if json_:
        shown = ("name", "summary", "data", "figures")
        for row in rows:
            row["bundled"] = [{key: cards[name][key] for key in shown} for name in row["bundled"]]
        emit(rows)
        return
    from rich.table import Table

    table = Table("model", "scales", "parameters", "halo", "what it is")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for row in rows:
        parameters = row["parameters"]
        counts = sorted(set(parameters.values()))
        table.add_row(
            row["name"],
            f"any to x{row['scale_range'][1]:g}"
            if row["scale_range"]
            else " ".join(f"x{s}" for s in row["scales"]),
            " / ".join(f"{count:,}" for count in counts),
            " / ".join(str(halo) for halo in sorted(set(row["halo"].values()))),
            row["summary"],
        )
    print_table(table)
    table = Table("with weights", "what it is for", "PSNR dB (bicubic)")
    table.columns[0].no_wrap = True
    for name, card in cards.items():
        figures = (
            f"{row['set']} {row['psnr']:.2f} ({row['bicubic_psnr']:.2f})" for row in card["figures"]
        )
        table.add_row(name, card["summary"], "\n".join(figures))
    print_table(table)
