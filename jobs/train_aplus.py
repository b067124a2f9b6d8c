"""Train A+ (anchored regression, Timofte et al. 2014) as one Ray task on CPUs, from a dataset in object storage.

Laptop (an embedded Ray, a dataset of jobs/prepare_dataset.py; minutes on 2 cores):
    python jobs/train_aplus.py --set data.uri=$HOME/dataset --set model.scale=2
Laptop, half a million samples, scored on a benchmark:
    python jobs/train_aplus.py --set data.uri=$HOME/dataset --set recipe=short --set validation.uri=$HOME/Set5/x2
Object storage (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY in the environment), the registry:
    python jobs/train_aplus.py --set data.uri=s3://rayscale/dataset --set model.scale=4 --register my-aplus-x4
Cluster, a node's 8 CPUs:
    ray job submit --working-dir . -- python jobs/train_aplus.py --set data.uri=s3://rayscale/dataset \\
        --set workers.cpus=8 --set workers.threads=8 --register my-aplus-x2

The defaults are the paper's: 5 million samples, 1024 anchors; memory and time are in docs/lab.md. The run folder
gets model.safetensors and, last, result.json. A complete run is not trained again; one that was killed starts over
with the same command. --list-options prints every key with its default and meaning.
Exit codes: 0 complete, 1 failed, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale import launch
from rayscale.errors import ConfigError, RayscaleError
from rayscale.launch import COMPLETE, FAILED, INTERRUPTED, USAGE
from rayscale.registry import check_name
from rayscale.training.aplus import APlusConfig, train
from rayscale.training.config import options_table

if TYPE_CHECKING:
    from rayscale.training.run import TrainResult


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.list_options:
        print(options_table(APlusConfig()))
        return COMPLETE
    try:
        result = on_ray(configure(options))
        table = rows(result)
        if options.register:
            table["registered"] = launch.register(result, options.register, options.alias)
    except RayscaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command starts over", file=sys.stderr)
        return INTERRUPTED
    width = max(map(len, table))
    print("\n" + "\n".join(f"{name:{width}}  {value}" for name, value in table.items()))
    return COMPLETE


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help=".yaml, .json or .toml, local or s3://")
    add(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="override one key, such as model.scale=3; repeatable",
    )  # fmt: skip
    add("--system", choices=("aplus",), help="as the other training jobs take it")
    add("--register", metavar="NAME", help="publish the result in the MLflow registry as NAME")
    add("--alias", metavar="ALIAS", help="with --register: point this alias to the new version")
    add("--list-options", action="store_true", help="print every key and end")
    return parser.parse_args(arguments)


def configure(options: argparse.Namespace) -> APlusConfig:
    """The configuration, printed; its tracking server becomes that of this process."""
    config = APlusConfig.load(options.config, options.set).resolved()
    tracking = config.logging.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if tracking:
        os.environ["MLFLOW_TRACKING_URI"] = tracking
    elif options.register:
        raise ConfigError("--register needs MLFLOW_TRACKING_URI, the server with the registry")
    if options.register:
        check_name(options.register)  # before the training, not after it
    print(config.to_yaml())
    print(f"run: {config.uri}")
    print(
        f"tracking: {'MLflow' if tracking else 'none (MLFLOW_TRACKING_URI is not set)'}", flush=True
    )
    return config


def on_ray(config: APlusConfig) -> TrainResult:
    """Train in one task; Ray starts it again when its worker or node is lost."""
    from rayscale import cluster

    print(f"ray: {cluster.connect()}", flush=True)
    import ray

    task = ray.remote(work).options(num_cpus=config.workers.cpus)
    try:
        outcome = ray.get(
            task.remote(config.model_dump(mode="json"), os.environ.get("MLFLOW_TRACKING_URI"))
        )
    except ray.exceptions.RayError as error:
        raise RayscaleError(
            f"the training failed on the cluster: {error}; the same command starts over"
        ) from error
    if isinstance(outcome, RayscaleError):
        raise outcome
    result: TrainResult = outcome
    return result


def work(values: dict[str, Any], tracking: str | None) -> TrainResult | RayscaleError:
    """The task; an error for the user is returned, because Ray would bury its message in a traceback."""
    import torch

    config = APlusConfig.parse(values)
    torch.set_num_threads(config.workers.threads or len(os.sched_getaffinity(0)))
    logger = None
    if tracking:
        logger = launch.mlflow_logger(tracking, config)
    try:
        result = train(config, metrics=logger, say=lambda line: print(line, flush=True))
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
        table[f"PSNR ({result.protocol})"] = f"{metrics['psnr']:.2f} dB"
        table[f"SSIM ({result.protocol})"] = f"{metrics['ssim']:.4f}"
    return table | {"weights": str(result.weights)}


if __name__ == "__main__":
    sys.exit(main())
