"""Train A+ (anchored regression, Timofte et al. 2014) as one Ray task on CPUs, from a dataset in object storage.

Laptop (an embedded Ray, a dataset of jobs/prepare_dataset.py; minutes on 2 cores):
    python jobs/train_aplus.py --set data.uri=$HOME/dataset --set model.scale=2 --set workers.cpus=2
Laptop, half a million samples, scored on a benchmark:
    python jobs/train_aplus.py --set data.uri=$HOME/dataset --set recipe=short --set validation.uri=$HOME/Set5/x2
Object storage (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY in the environment), the registry:
    python jobs/train_aplus.py --set data.uri=s3://rayscale/dataset --set model.scale=4 --register my-aplus-x4
Cluster, a node's 8 CPUs:
    ray job submit --working-dir . -- python jobs/train_aplus.py --set data.uri=s3://rayscale/dataset \\
        --set workers.cpus=8 --register aplus-x2

The defaults are the paper's: 5 million samples, 1024 anchors; memory and time are in docs/lab.md. The run folder
gets model.safetensors and, last, result.json. A complete run is not trained again; one that was killed starts over
with the same command, and --fresh trains anew. --list-options prints every key with its default and meaning.
Exit codes: 0 complete, 1 failed, 2 wrong usage or configuration, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale import cluster, launch
from rayscale.errors import RayscaleError
from rayscale.interruption import run
from rayscale.training.aplus import APlusConfig, train

if TYPE_CHECKING:
    from rayscale.training.run import TrainResult

SCRIPT = "jobs/train_aplus.py"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    return launch.parser_of(SCRIPT, __doc__ or "").parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)

    def work() -> int:
        config = APlusConfig.load(options.config, options.set)
        return launch.train(options, config, functools.partial(on_ray, fresh=options.fresh), rows)

    return run(work, "the same command starts over")


def on_ray(config: APlusConfig, *, fresh: bool) -> TrainResult:
    """Train in one task; Ray starts it again when its worker or node is lost."""
    import ray

    cluster.check_room(1, {"CPU": config.workers.cpus}, "lower workers.cpus")
    task = ray.remote(compute).options(num_cpus=config.workers.cpus)
    tracking = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        outcome = ray.get(task.remote(config.model_dump(mode="json"), fresh, tracking))
    except ray.exceptions.RayError as error:
        raise RayscaleError(
            f"the training failed on the cluster: {error}; the same command starts over"
        ) from error
    if isinstance(outcome, RayscaleError):
        raise outcome
    result: TrainResult = outcome
    return result


def compute(
    values: dict[str, Any], fresh: bool, tracking: str | None
) -> TrainResult | RayscaleError:
    """The task; an error for the user is returned, because Ray would bury its message in a traceback."""
    import torch

    config = APlusConfig.parse(values)
    torch.set_num_threads(config.workers.threads or max(1, int(config.workers.cpus)))
    logger = None
    if tracking:
        logger = launch.mlflow_logger(tracking, config)
    try:
        result = train(
            config, fresh=fresh, metrics=logger, say=lambda line: print(line, flush=True)
        )
    except RayscaleError as error:
        return error
    finally:
        if logger is not None:
            logger.close()
    return replace(result, run_id=logger.run_id if logger else None)


def rows(result: TrainResult) -> dict[str, str]:
    """The table that ends a run."""
    metrics = result.metrics
    table = {
        "run": result.uri,
        "samples": f"{metrics['samples']:.0f}",
        "energy": f"{100 * metrics['energy']:.2f} % of the gradients in the features",
        "time": f"{metrics['seconds']:.0f} s",
    }
    if result.protocol:
        table["benchmark"] = result.benchmark.get("uri", "not known")
        table[f"PSNR ({result.protocol})"] = f"{metrics['psnr']:.2f} dB"
        table[f"SSIM ({result.protocol})"] = f"{metrics['ssim']:.4f}"
    return table | {"weights": str(result.weights)}


if __name__ == "__main__":
    sys.exit(main())
