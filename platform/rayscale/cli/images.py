"""Commands on images and models that need no server: upscale, degrade, evaluate, models."""

from __future__ import annotations

from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayscale.cli.console import emit, note, progress_line
from rayscale.errors import ConfigError, NotFoundError, RayscaleError
from rayscale.models.builtin import DEFAULT_SYSTEMS, default_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rayscale.imaging import Image, Provenance
    from rayscale.inference import Upscaler
    from rayscale.registry import OpenedModel

    Change = Callable[[Image], tuple[Image, Provenance | None]]

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
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="Weights file: rayscale's safetensors, or .pt of EDSR-PyTorch, BasicSR, super-image.",
        exists=True,
        dir_okay=False,
    ),
]
ScaleOption = Annotated[
    float,
    typer.Option("--scale", "-s", min=1, help="How many times larger; 2.5 where the model can."),
]
EnsembleOption = Annotated[
    bool, typer.Option("--ensemble", help='Average over 8 flips and turns ("+"): slower, better.')
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON only.")]


def open_named(name: str, weights: Path | None, scale: float) -> OpenedModel:
    """The model to use; the hash of a weights file is shown."""
    from rayscale.registry import open_model

    opened = open_model(name, weights=weights, scale=scale)
    if weights is not None:
        note(f"{weights.name}: sha256 {opened.digest}")
    return opened


def chosen(model: str | None, weights: Path | None, scale: float) -> tuple[str, str]:
    """The names of the models for images of three channels and for others."""
    if model is None and weights is None:
        return default_models(scale)
    name = model or DEFAULT_SYSTEMS[0]
    return name, name


def upscale(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="An image, a folder or s3://...")],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="File, folder or s3://...")],
    model: ModelOption = None,
    scale: ScaleOption = 2,
    weights: WeightsOption = None,
    ensemble: EnsembleOption = False,
    tile: Annotated[
        int | None,
        typer.Option(help="Side of a tile in input pixels (192); the halo is extra.", min=16),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Upscale a file, a folder or a bucket; names and formats are kept.

    rayscale upscale photo.png big.png

    rayscale upscale photo.png big.png -m edsr-baseline --weights x2.pt -s 2

    rayscale upscale photos/ larger/ -m bicubic -s 4

    rayscale upscale s3://in/prefix s3://out/prefix -m NAME@alias   (Ray Data; without -m edsr-baseline for all)

    Exit code: 0 all done, 3 some files failed, 1 nothing could be done, 2 wrong usage.
    """
    if source.startswith("s3://") or target.startswith("s3://"):
        if weights is not None:
            raise ConfigError(
                "a bucket takes built-in and registered models, no --weights; register them first (rayscale register)"
            )
        if tile is not None:
            raise ConfigError("a bucket takes no --tile: its workers choose the tiles")
        from rayscale.cli.pipeline import upscale_bucket

        options = {
            "--model": chosen(model, None, scale)[0],
            "--scale": f"{scale:g}",
            "--device": device,
            "--precision": precision,
        }
        flags = ["--ensemble"] * ensemble + ["--json"] * json_
        upscale_bucket([source, target, *chain.from_iterable(options.items()), *flags])
        return

    from rayscale.imaging import Provenance
    from rayscale.inference import Upscaler

    jobs = list(_jobs(Path(source), Path(target)))
    photograph, other = chosen(model, weights, scale)

    @cache
    def made(name: str) -> tuple[Upscaler, Provenance]:
        opened = open_named(name, weights, scale)
        upscaler = Upscaler(
            opened.network,
            scale,
            device=device,
            precision=precision,  # type: ignore[arg-type]  # checked by Upscaler
            tile=tile or 192,
            ensemble=ensemble,
        )
        return upscaler, Provenance(opened.label, opened.digest, upscaler.describe())

    def larger(image: Image) -> tuple[Image, Provenance]:
        upscaler, provenance = made(photograph if image.channels == 3 else other)
        return upscaler.upscale(image), provenance

    def convert(source: Path, target: Path) -> str:
        if _by_windows(source, target):
            return _upscale_scene(source, target, lambda c: made(photograph if c == 3 else other))
        return _convert(source, target, larger)

    made(photograph)  # a model or a device that cannot be used is one error, not one of each file
    _for_each(jobs, convert, json_)


def degrade(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image or a folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File or folder to write.")],
    scale: Annotated[int, typer.Option("--scale", "-s", min=1, help="How many times smaller.")] = 2,
    json_: JsonOption = False,
) -> None:
    """Make low-resolution images by MATLAB-exact bicubic, as the benchmark sets were made.

    The image is cropped to a multiple of the scale first. Exit codes as of `rayscale upscale`.
    """
    from dataclasses import replace

    from rayscale.resampling import degrade as shrink

    def smaller(image: Image) -> tuple[Image, None]:
        image.check_picture("making a low-resolution image")
        alpha = None if image.alpha is None else shrink(image.alpha[..., None], scale)[..., 0]
        dpi = None if image.dpi is None else (image.dpi[0] / scale, image.dpi[1] / scale)
        metadata = None if image.metadata is None else image.metadata.scaled(1 / scale)
        pixels = shrink(image.pixels, scale)
        return replace(image, pixels=pixels, alpha=alpha, dpi=dpi, metadata=metadata), None

    def convert(source: Path, target: Path) -> str:
        return _convert(source, target, smaller)

    _for_each(list(_jobs(source, target)), convert, json_)


def _jobs(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """Pairs of input and output file; a folder is walked, its output folder left out."""
    from rayscale.imaging import EXTENSIONS, ending_of

    if source.is_file():
        yield source, target / source.name if target.is_dir() else target
        return
    if not source.is_dir():
        raise NotFoundError(f"there is no file or folder {source}")
    if target.is_file():
        raise ConfigError(f"{target} is a file, but the input {source} is a folder; name a folder")
    if source.resolve() == target.resolve():
        raise ConfigError(f"input and output are the same folder {source}; name another output")
    found = False
    for path in sorted(source.rglob("*")):
        inside_target = target.resolve() in path.resolve().parents
        if path.is_file() and ending_of(path.name) and not inside_target:
            found = True
            yield path, target / path.relative_to(source)
    if not found:
        raise NotFoundError(f"no images in {source}; looked for {', '.join(sorted(EXTENSIONS))}")


def _for_each(
    jobs: list[tuple[Path, Path]],
    convert: Callable[[Path, Path], str],
    json_: bool,
) -> None:
    """Make each output, whose size ``convert`` returns; report failures, then exit with the code that tells."""
    import time

    done, failed = [], []
    for number, (source, target) in enumerate(jobs, 1):
        start = time.perf_counter()
        try:
            size = convert(source, target)
        except (RayscaleError, OSError) as error:
            failed.append({"input": str(source), "error": str(error)})
            note(f"[{number}/{len(jobs)}] {source}: FAILED: {error}")
        else:
            done.append({"input": str(source), "output": str(target)})
            seconds = time.perf_counter() - start
            note(f"[{number}/{len(jobs)}] {source} -> {target} ({size}, {seconds:.1f} s)")
    if json_:
        emit({"done": done, "failed": failed})
    if failed:
        raise typer.Exit(3 if done else 1)


def _convert(source: Path, target: Path, change: Change) -> str:
    from dataclasses import replace

    from rayscale.imaging import CONTAINERS, EXTENSIONS, ending_of, read_image, write_image
    from rayscale.storage import connect

    image, provenance = change(read_image(source.read_bytes()))
    ending = ending_of(target.name)
    if not ending:
        raise ConfigError(
            f"{target}: cannot tell the format from {target.suffix or 'a missing ending'!r}; "
            f"use one of {', '.join(sorted(EXTENSIONS))}"
        )
    if ending not in CONTAINERS[image.container].suffixes and ending != ending_of(source.name):
        image = replace(image, container=EXTENSIONS[ending], encoding={})
    connect(target.parent).write(target.name, write_image(image, provenance))
    return f"{image.width}x{image.height}"


def _by_windows(source: Path, target: Path) -> bool:
    """Whether a file takes the path of scenes: a GeoTIFF that becomes one; what else it becomes is an error."""
    from rayscale.imaging import CONTAINERS, ending_of
    from rayscale.imaging.scene import is_scene

    return ending_of(target.name) in CONTAINERS["geotiff"].suffixes and is_scene(source)


def _upscale_scene(
    source: Path, target: Path, made: Callable[[int], tuple[Upscaler, Provenance]]
) -> str:
    """Enlarge a GeoTIFF with what ``made`` returns for its number of channels."""
    from rayscale.imaging.scene import Scene
    from rayscale.inference import upscale_scene

    with Scene(source) as scene:
        upscaler, provenance = made(scene.channels)
    with progress_line() as show:

        def progress(done: int, count: int) -> None:
            if count > 1:
                show(f"{source}: {done} of {count} windows")

        width, height = upscale_scene(upscaler, source, target, provenance, progress=progress)
    return f"{width}x{height}"


def evaluate(
    data: Annotated[
        str, typer.Option(help="Folder or s3:// prefix with HR/ and LR/ of the scale.")
    ],
    model: ModelOption = None,
    scale: ScaleOption = 2,
    weights: WeightsOption = None,
    ensemble: EnsembleOption = False,
    protocol: Annotated[
        str, typer.Option(help="edsr-paper-y, rgb or div2k-rgb: what the figures mean.")
    ] = "edsr-paper-y",
    suite: Annotated[
        str | None, typer.Option(help="satellite or medical: measure what these sets need besides.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    json_: JsonOption = False,
) -> None:
    """Score a model on a benchmark: PSNR and SSIM, with the protocol they belong to.

    rayscale evaluate -m bicubic --data Set5/x2 -s 2

    rayscale evaluate -m edsr-baseline --weights x2.pt --data Set5/x2 -s 2 --json

    rayscale evaluate -m bicubic --data tiles -s 2 --protocol rgb --suite satellite

    Several models, sets and scales side by side, plots and crops: jobs/evaluate.py.
    """
    from rayscale.evaluation import SUITES, read_pairs
    from rayscale.evaluation import evaluate as score
    from rayscale.imaging.metrics import PROTOCOLS
    from rayscale.inference import Upscaler

    if protocol not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {protocol!r}; use one of {', '.join(PROTOCOLS)}")
    if suite is not None and suite not in SUITES:
        raise ConfigError(f"unknown suite {suite!r}; use one of {', '.join(SUITES)}")
    model, _ = chosen(model, weights, scale)  # grey images by that of colour, as the papers do
    upscaler = Upscaler(
        open_named(model, weights, scale).network,
        scale,
        device=device,
        precision=precision,  # type: ignore[arg-type]  # checked by Upscaler
        ensemble=ensemble,
    )
    report = score(
        upscaler,
        read_pairs(data, scale),
        name=model,
        protocol=PROTOCOLS[protocol],
        suite=SUITES[suite] if suite else None,
    )
    if json_:
        emit(report.to_dict())
        return
    from rich.console import Console
    from rich.table import Table

    from rayscale.evaluation.published import find, set_name
    from rayscale.evaluation.suites import MEASURES

    caption = f"{protocol}: {PROTOCOLS[protocol].description}"
    table = Table("image", "PSNR dB", "SSIM", "s", title=f"{report.model} x{report.scale}")
    for image in report.images:
        table.add_row(image.name, f"{image.psnr:.2f}", f"{image.ssim:.4f}", f"{image.seconds:.2f}")
    table.add_section()
    table.add_row("mean", f"{report.psnr:.2f}", f"{report.ssim:.4f}", "")
    system = upscaler.model.spec.system + "+" * ensemble
    published = find(set_name(data), scale, system, report.protocol)
    if published is not None:
        ssim = "" if published.ssim is None else f"{published.ssim:.4f}"
        table.add_row("published", f"{published.psnr:.2f}", ssim)
        caption += f"\npublished: {published.source}"
    table.caption = caption
    Console().print(table)
    if report.measures:
        table = Table("measure", "mean", "better", title=f"suite {suite}")
        for name, value in report.measures.items():
            measure = MEASURES[name]
            better = "higher" if measure.higher else "lower"
            table.add_row(measure.title, f"{value:.{measure.digits}f}", better)
        Console().print(table)


def models(json_: JsonOption = False) -> None:
    """List the systems: scales, parameters, halo (receptive field in input pixels), models with weights."""
    from rayscale.models.builtin import read_card
    from rayscale.models.registry import describe, model_names

    rows = [describe(name) for name in model_names()]
    cards = {name: read_card(name) for row in rows for name in row["bundled"]}
    if json_:
        shown = ("name", "summary", "data", "figures")
        for row in rows:
            row["bundled"] = [{key: cards[name][key] for key in shown} for name in row["bundled"]]
        emit(rows)
        return
    from rich.console import Console
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
    Console().print(table)
    table = Table("with weights", "what it is for", "PSNR dB (bicubic)")
    table.columns[0].no_wrap = True
    for name, card in cards.items():
        figures = (
            f"{row['set']} {row['psnr']:.2f} ({row['bicubic_psnr']:.2f})" for row in card["figures"]
        )
        table.add_row(name, card["summary"], "\n".join(figures))
    Console().print(table)
