"""Score models on benchmarks, side by side on Ray: the table of the EDSR paper, with published figures beside.

Laptop (an embedded Ray):

    python jobs/evaluate.py --model bicubic --model edsr@production --data Set5/x2 --data Set14/x2 --scale 2
    python jobs/evaluate.py --model bicubic --model edsr-baseline=runs/x{scale}.safetensors --ensemble \\
        --data Set5/x{scale} --scale 2 --scale 3 --scale 4 --output results --crops img_001_SRF_{scale}
    python jobs/evaluate.py --model bicubic --data tiles --scale 2 --protocol rgb --suite satellite

Cluster:

    ray job submit --working-dir . -- python jobs/evaluate.py --model edsr@production --data s3://bucket/Set5/x2 --scale 2

A benchmark holds HR/ and LR/ of one scale; {scale} stands for the scale in any --data, --model and --crops. Models
are built-in ones, registered references, systems that are bundled (aplus), or SYSTEM=WEIGHTS with a file that this process
can read; one that does not serve a scale has no figure there. --output saves table.md, table.json, plots and crops (folder
or s3://...). With MLFLOW_TRACKING_URI set, all of that becomes an MLflow run too.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale import cluster
from rayscale.errors import ConfigError, NotFoundError, RayscaleError
from rayscale.evaluation import PLACEHOLDER, SUITES
from rayscale.imaging.metrics import PROTOCOLS

if TYPE_CHECKING:
    from rayscale.evaluation import Report
    from rayscale.evaluation.cost import Cost
    from rayscale.evaluation.crops import Window
    from rayscale.evaluation.table import Entry
    from rayscale.imaging.image import Pixels

_CHUNK = 4  # images of one task: enough to pay for its start, few enough to spread a set over the cluster
_WINDOW = re.compile(r":([\d,\s-]+)$")


class Contender(NamedTuple):
    """A model at one scale. ``network`` is a reference into Ray's object store."""

    label: str
    scale: float
    ensemble: bool
    system: str
    weights: str
    cost: Cost
    network: Any


class Crop(NamedTuple):
    """An image of a benchmark to be shown; the window is chosen automatically when None."""

    data: str
    scale: float
    image: str
    window: Window | None


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        run(options)
    except RayscaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


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
    for data in options.data:
        if len(set(options.scale)) > 1 and PLACEHOLDER not in data:
            parser.error(f"--data {data} is of one scale; with several write {data}/x{PLACEHOLDER}")
    return options


def run(options: argparse.Namespace) -> None:
    """Score, print, save, draw, log: in this order, so that what fails costs nothing but itself."""
    from rayscale.evaluation import plots, table

    crops = list(find_crops(options))
    cluster.connect()
    contenders = open_models(options)
    entries = score_all(options, contenders)
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
            **draw_crops(options, crops, contenders),
        }
        if options.output:
            save(options.output, pictures)
        files |= pictures
    if tracked:
        log(options, entries, files)


def open_models(options: argparse.Namespace) -> list[Contender]:
    """Every model (and its ensemble) at every scale that it serves, each network put once into the object store.

    Raises ConfigError for a model that serves none of them.
    """
    import ray

    from rayscale.evaluation import at_scale
    from rayscale.evaluation.cost import count
    from rayscale.models.builtin import builtin_names
    from rayscale.registry import open_model

    found: list[Contender] = []
    networks: dict[str, Any] = {}
    for argument in options.model:
        label = ""
        for scale in options.scale:
            name, _, weights = at_scale(argument, scale).partition("=")
            try:
                model = open_model(name, weights=weights or None, scale=scale)
                model.network.resolve_scale(scale)
            except ConfigError as error:
                reason = error
                continue
            if model.digest not in networks:
                networks[model.digest] = ray.put(model.network)
            if not label:  # one column for all scales: a bundled model is called what was asked for
                title = name if model.label in builtin_names() else model.label
                label = _unused(title, {contender.label for contender in found})
            spec = model.network.spec
            found += [
                Contender(
                    label, scale, ensemble, spec.system + "+" * ensemble, model.digest,
                    count(spec, scale, ensemble=ensemble), networks[model.digest],
                )
                for ensemble in ((False, True) if options.ensemble else (False,))
            ]  # fmt: skip
        if not label:
            raise reason
    return found


def _unused(label: str, taken: set[str]) -> str:
    """The label, numbered when it is taken: two weights of one system."""
    number = 1 + sum(other.partition(" #")[0] == label for other in taken)
    return label if number == 1 else f"{label} #{number}"


def score_all(options: argparse.Namespace, contenders: Sequence[Contender]) -> list[Entry]:
    """One entry per set, scale and model; a Ray task scores some images of one."""
    import ray

    from rayscale.evaluation import at_scale, list_pairs
    from rayscale.evaluation.table import Entry

    task = ray.remote(score).options(max_retries=3, **resources(options))
    work = []
    for template in options.data:
        for scale in options.scale:
            data = at_scale(template, scale)
            names = list_pairs(data)
            chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
            for one in contenders:
                if one.scale == scale:
                    parts = [
                        task.remote(
                            one.network, one.label, one.ensemble, data, scale, chunk,
                            options.protocol, options.suite, options.device,
                        )
                        for chunk in chunks
                    ]  # fmt: skip
                    work.append((data, one, parts))
    entries = []
    for data, one, parts in work:
        reports, devices = zip(*map(_result, ray.get(parts)), strict=True)
        device = ", ".join(dict.fromkeys(devices))
        entries.append(Entry(data, _joined(reports), one.system, one.weights, one.cost, device))
    return entries


def score(
    network: Any, label: str, ensemble: bool, data: str, scale: float, names: list[str],
    protocol: str, suite: str | None, device: str,
) -> tuple[Report, str] | RayscaleError:  # fmt: skip
    """The report of some images and what computed them; a user's error comes back as a value, because Ray would
    bury it in its traceback."""
    from rayscale.evaluation import evaluate, read_pairs
    from rayscale.evaluation.cost import describe_device
    from rayscale.inference import Upscaler

    try:
        upscaler = Upscaler(network, scale, device=device, precision="float32", ensemble=ensemble)
        report = evaluate(
            upscaler,
            read_pairs(data, scale, names),
            name=label,
            protocol=PROTOCOLS[protocol],
            suite=SUITES[suite] if suite else None,
        )
    except RayscaleError as error:
        return type(error)(f"{label} on {data}: {error}")
    return report, describe_device(upscaler.device)


def _result(value: Any) -> Any:
    if isinstance(value, RayscaleError):
        raise value
    return value


def _joined(parts: Sequence[Report]) -> Report:
    from rayscale.evaluation import Report

    first = parts[0]
    images = [image for part in parts for image in part.images]
    return Report(first.model, first.scale, first.protocol, images)


def resources(options: argparse.Namespace) -> dict[str, float]:
    """What a task needs: a core, and a GPU where the cluster has them; ConfigError where it must and has none."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0) > 0
    if options.device == "cuda" and not gpus:
        raise ConfigError(
            "--device cuda: this Ray cluster has no GPU; use --device auto, or set RAY_ADDRESS to a cluster that has"
        )
    return {"num_cpus": 1, "num_gpus": 1 if gpus and options.device != "cpu" else 0}


def find_crops(options: argparse.Namespace) -> Iterator[Crop]:
    """Where the images of ``--crops`` are.

    Raises NotFoundError for one that is in no benchmark, InputError for a window that leaves its image.
    """
    from rayscale.evaluation import at_scale, list_pairs, read_pairs
    from rayscale.evaluation.crops import Window

    places = [(at_scale(data, scale), scale) for data in options.data for scale in options.scale]
    names = {data: list_pairs(data) for data, _ in places} if options.crops else {}
    for text in options.crops:
        match = _WINDOW.search(text)
        window = Window.parse(match[1]) if match else None
        image = text[: match.start()] if match else text
        found = [(data, scale) for data, scale in places if at_scale(image, scale) in names[data]]
        if not found:
            known = ", ".join(dict.fromkeys(name for some in names.values() for name in some[:5]))
            raise NotFoundError(f"--crops {image}: no benchmark has it; they have {known}, ...")
        for data, scale in found:
            name = at_scale(image, scale)
            if window is not None:
                (pair,) = read_pairs(data, scale, [name])
                window.cut(pair.hr.pixels)
            yield Crop(data, scale, name, window)


def draw_crops(
    options: argparse.Namespace, crops: Sequence[Crop], contenders: Sequence[Contender]
) -> dict[str, bytes]:
    """A PNG per crop: bicubic, each model, HR."""
    import ray

    from rayscale.evaluation import read_pairs
    from rayscale.evaluation.crops import sheet
    from rayscale.evaluation.published import set_name
    from rayscale.resampling import enlarge

    task = ray.remote(upscaled).options(max_retries=3, **resources(options))
    drawn = {}
    for data, scale, image, window in crops:
        results = {
            one.label + "+" * one.ensemble: task.remote(
                one.network, one.ensemble, data, scale, image, options.device
            )
            for one in contenders
            if one.scale == scale
        }
        (pair,) = read_pairs(data, scale, [image])
        pictures = {"bicubic": enlarge(pair.lr.pixels, scale)}
        pictures |= {label: _result(ray.get(future)) for label, future in results.items()}
        dataset = set_name(data)
        drawn[f"crops/{dataset}_x{scale:g}_{image}.png"] = sheet(
            f"{image}, {dataset} x{scale:g}", pair.hr.pixels, pictures, PROTOCOLS[options.protocol], window
        )  # fmt: skip
    return drawn


def upscaled(
    network: Any, ensemble: bool, data: str, scale: float, image: str, device: str
) -> Pixels | RayscaleError:
    """One image by one model; errors as by :func:`score`."""
    from rayscale.evaluation import enlarge_pair, read_pairs
    from rayscale.inference import Upscaler

    try:
        upscaler = Upscaler(network, scale, device=device, precision="float32", ensemble=ensemble)
        (pair,) = read_pairs(data, scale, [image])
        return enlarge_pair(upscaler, pair)
    except RayscaleError as error:
        return error


def save(uri: str, files: dict[str, bytes]) -> None:
    from rayscale.storage import connect

    store = connect(uri)
    for name, content in files.items():
        store.write(name, content)


def log(options: argparse.Namespace, entries: Sequence[Entry], files: dict[str, bytes]) -> None:
    """The tables, figures and pictures as an MLflow run."""
    from rayscale.registry import log_evaluation

    metrics: dict[str, float] = {}
    for entry in entries:
        report = entry.report
        name = f"{entry.dataset}/x{report.scale:g}/{report.model.replace('+', '-plus')}"
        values = {"psnr": report.psnr, "ssim": report.ssim, **report.measures}
        metrics |= {f"{name}/{key}": value for key, value in values.items()}
    sets = ", ".join(dict.fromkeys(entry.dataset for entry in entries))
    scales = ", ".join(f"x{scale:g}" for scale in dict.fromkeys(options.scale))
    run_id = log_evaluation(
        f"{sets} {scales}",
        params={
            "models": ", ".join(options.model),
            "data": ", ".join(options.data),
            "protocol": options.protocol,
            **({"suite": options.suite} if options.suite else {}),
        },
        metrics=metrics,
        files=files,
    )
    print(f"MLflow run {run_id}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
