"""Score models on benchmarks, side by side on Ray: the table of the EDSR paper, with published figures beside.

Laptop (an embedded Ray):

    python jobs/evaluate.py --model bicubic --model edsr@production --data Set5/x2 --data Set14/x2 --scale 2
    python jobs/evaluate.py --model bicubic --model edsr-baseline=runs/x{scale}.safetensors --ensemble \\
        --data Set5/x{scale} --scale 2 --scale 3 --scale 4 --output results --crops img_001_SRF_{scale}
    python jobs/evaluate.py --model bicubic --data tiles --scale 2 --protocol rgb --suite satellite

Cluster:

    ray job submit --working-dir . -- python jobs/evaluate.py --model edsr@production --data s3://bucket/Set5/x2 --scale 2

A benchmark holds HR/ and LR/ of one scale, or HR/ and LR_bicubic/X2, X3, ... as DIV2K and EDSR-PyTorch do; HR is cropped to
scale times LR. {scale} stands for the scale in any --data, --model and --crops. Models
are built-in ones, registered references, systems that are bundled (aplus), or SYSTEM=WEIGHTS with a file that this process
can read; one that does not serve a scale has no figure there. --output saves table.md, table.json, plots and crops (folder
or s3://...). With MLFLOW_TRACKING_URI set, all of that becomes an MLflow run too.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale import cluster, interruption
from rayscale.comparison import Comparison, draw_crops, find_crops, open_models, score_all
from rayscale.evaluation import SUITES, check_scales
from rayscale.imaging.metrics import PROTOCOLS

if TYPE_CHECKING:
    from rayscale.evaluation.table import Entry


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return interruption.run(lambda: run(options), "the same command starts over")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", action="append", required=True, metavar="NAME[=WEIGHTS]", help="repeatable")
    add("--data", action="append", required=True, metavar="URI", help="repeatable")
    add("--scale", action="append", type=float, required=True, help="repeatable")
    add("--weights", help="weights file, with one --model that names its system")
    add("--ensemble", action="store_true", help="score the self-ensemble (+) of each model too")
    add("--protocol", choices=tuple(PROTOCOLS), default="edsr-paper-y")
    add("--suite", choices=tuple(SUITES), help="measure more: cPSNR, SAM, ERGAS, NRMSE, ...")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: GPUs if any")
    add("--output", metavar="URI", help="folder or s3://... for the tables, plots and crops")
    add("--crops", action="append", default=[], metavar="IMAGE[:x,y,w,h]",
        help="show this image's window (HR pixels; default: where the models differ most)")  # fmt: skip
    add("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(arguments)
    if options.weights:
        if len(options.model) > 1:
            parser.error("--weights goes with one --model; with several use --model SYSTEM=WEIGHTS")
        options.model = [f"{options.model[0]}={options.weights}"]
    if options.crops and not options.output:
        parser.error("--crops needs an --output to save the pictures in")
    return options


def run(options: argparse.Namespace) -> int:
    """Score, print, save, draw, log: in this order, so that what fails costs nothing but itself."""
    from rayscale.evaluation import plots, table

    for data in options.data:
        check_scales(data, options.scale)
    comparison = Comparison(
        options.model, options.data, options.scale, options.ensemble,
        options.protocol, options.suite, options.device,
    )  # fmt: skip
    crops = list(find_crops(comparison, options.crops))
    cluster.connect()
    contenders = open_models(comparison)
    entries = score_all(comparison, contenders)
    print(table.to_json(entries) if options.json else table.to_markdown(entries).rstrip())
    files = {
        "table.md": table.to_markdown(entries).encode(),
        "table.json": table.to_json(entries).encode(),
    }
    tracked = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    if options.output:
        save(options.output, files)
    if options.output or tracked:
        pictures = {
            "psnr_parameters.png": plots.over_parameters(entries),
            "psnr_seconds.png": plots.over_seconds(entries),
            **draw_crops(comparison, crops, contenders),
        }
        if options.output:
            save(options.output, pictures)
        files |= pictures
    if tracked:
        log(comparison, entries, files)
    return interruption.COMPLETE


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
            **({"suite": comparison.suite} if comparison.suite else {}),
        },
        metrics=metrics,
        files=files,
    )
    print(f"MLflow run {run_id}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
