"""Figure 4 of the EDSR paper: x3 and x4 started from a trained x2 against from scratch, PSNR over steps, as a plot.

Laptop (an embedded Ray; a dataset of jobs/prepare_dataset.py, a benchmark in x3/ and x4/, a model of jobs/train_edsr.py):
    python benchmarks/warm_start_study.py $HOME/runs/x2/model.safetensors --scales 3 4 --output study \\
        --set data.uri=$HOME/dataset --set "validation.uri=$HOME/Set5/x{scale}" --set recipe=short \\
        --set optimizer.steps=2000 --set validation.every=100
Cluster, object storage:
    ray job submit --working-dir . -- python benchmarks/warm_start_study.py s3://rayscale/runs/x2/model.safetensors \\
        --output s3://rayscale/study --set data.uri=s3://rayscale/div2k --set 'validation.uri=s3://rayscale/Set5/x{scale}' \\
        --set optimizer.steps=100000 --workers 4

Every curve is a training run of its own with the same budget; the network is edsr-baseline unless --set model.name says
otherwise. The same command goes on where it was interrupted. Writes OUTPUT.png and OUTPUT.json (a path or s3://...).
Exit codes: 0 complete, 1 failed, 2 wrong usage or configuration, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale import strictjson
from rayscale.errors import ConfigError, RayscaleError
from rayscale.interruption import COMPLETE, run
from rayscale.storage import Store, connect, split
from rayscale.training.config import TrainConfig, load_config
from rayscale.training.run import TrainResult

Fit = Callable[[TrainConfig], TrainResult]


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return run(lambda: compare(options), "run the same command again to resume")


def compare(options: argparse.Namespace) -> int:
    folder, name = split(options.output)  # a wrong one is told before the runs
    store = connect(folder)
    configs = {key: config.identified() for key, config in plan(options).items()}
    curves = study(configs, on_ray())
    save(store, name, curves)
    for curve in curves:
        last = curve["history"][-1]
        print(
            f"x{curve['scale']} {curve['start']:12}  {last['psnr']:.2f} dB at step {last['step']:.0f}"
        )
    print(f"{options.output}.png  {options.output}.json")
    return COMPLETE


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("weights", help="model.safetensors of a trained x2: a path or s3://...")
    add("--scales", type=int, nargs="+", default=[3, 4], help="default: 3 4")
    add("--config", metavar="FILE", help="base configuration, as of jobs/train_edsr.py")
    add(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="override one key of the base; repeatable",
    )  # fmt: skip
    add("--workers", type=int, metavar="N", help="the same as --set workers.count=N")
    add("--output", default="warm_start", metavar="NAME", help="default: %(default)s")
    return parser.parse_args(arguments)


def plan(options: argparse.Namespace) -> dict[tuple[int, str], TrainConfig]:
    """The run of each scale and start; ConfigError without a benchmark to compare them on."""
    base = list(options.set)
    if options.workers is not None:
        base.append(f"workers.count={options.workers}")
    configs = {}
    for scale in options.scales:
        for start, weights in (("from x2", options.weights), ("from scratch", "null")):
            overrides = [*base, f"model.scale={scale}", f"model.warm_start={weights}"]
            config = load_config(options.config, overrides)
            if not config.validation.uri:
                raise ConfigError(
                    "the curves are PSNR over steps: set validation.uri to a benchmark, such as "
                    "--set 'validation.uri=s3://bucket/Set5/x{scale}'"
                )
            configs[scale, start] = config
    return configs


def on_ray() -> Fit:
    """Runs on the connected cluster, or on an embedded Ray."""
    from rayscale import cluster
    from rayscale.training.ray import fit

    print(f"ray: {cluster.connect()}", flush=True)
    return fit


def study(configs: dict[tuple[int, str], TrainConfig], fit: Fit) -> list[dict[str, Any]]:
    """The curves, each ``{"scale", "start", "run", "protocol", "history": [{"step", "psnr", "ssim"}]}``.

    RayscaleError for a run without scores on the way: the digest of a run knows no benchmark, so a finished one may have
    trained without any, or with another.
    """
    curves = []
    for (scale, start), config in configs.items():
        print(f"x{scale} {start}: {config.uri}", flush=True)
        result = fit(config)
        first = min(config.validation.every, config.optimizer.steps)
        if not result.history or result.history[0]["step"] > first:
            raise RayscaleError(
                f"{result.uri} has no scores of step {first} to draw: it was stopped before, or trained without "
                f"{config.validation.uri} as it is now; set run.uri to another place to train it anew"
            )
        curves.append(
            {
                "scale": scale,
                "start": start,
                "run": result.uri,
                "protocol": result.protocol,
                "history": result.history,
            }
        )
    return curves


def save(store: Store, name: str, curves: list[dict[str, Any]]) -> None:
    """The curves as JSON, and as a plot: one panel per scale, the protocol named."""
    from matplotlib.figure import Figure

    scales = sorted({curve["scale"] for curve in curves})
    figure = Figure(figsize=(5 * len(scales), 4), layout="constrained")
    for panel, scale in zip(figure.subplots(1, len(scales), squeeze=False)[0], scales, strict=True):
        for curve in (curve for curve in curves if curve["scale"] == scale):
            steps, psnr = ([row[key] for row in curve["history"]] for key in ("step", "psnr"))
            panel.plot(steps, psnr, marker=".", label=curve["start"])
        panel.set(title=f"x{scale}", xlabel="step", ylabel=f"PSNR (dB), {curves[0]['protocol']}")
        panel.grid(alpha=0.3)
        panel.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    store.write(f"{name}.json", (strictjson.dumps(curves, indent=1) + "\n").encode())
    store.write(f"{name}.png", picture.getvalue())


if __name__ == "__main__":
    sys.exit(main())
