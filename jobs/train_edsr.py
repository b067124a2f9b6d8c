"""Train EDSR under Ray Train from a dataset in object storage, with the paper's recipe as the default.

Laptop (an embedded Ray, a dataset of jobs/prepare_dataset.py; some minutes on 2 cores):
    python jobs/train_edsr.py --set data.uri=$HOME/dataset --set optimizer.steps=1000 --set optimizer.lr=4e-4 \\
        --set optimizer.schedule=cosine --set optimizer.ema=0.99
Laptop, object storage (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY in the environment):
    python jobs/train_edsr.py --set data.uri=s3://rayscale/dataset --set validation.uri=s3://rayscale/Set5/x2
Cluster, the recipe of the paper (300 000 steps) on 4 GPUs:
    ray job submit --working-dir . -- python jobs/train_edsr.py --set data.uri=s3://rayscale/div2k \\
        --workers 4 --set workers.gpu=true --register edsr-baseline-x2
Cluster whose image holds the repository and sets RAYSCALE_DATASET:
    ray job submit -- python jobs/train_edsr.py
The large model, x4 from a trained x2, a configuration file:
    python jobs/train_edsr.py --config edsr_x4.yaml --set model.warm_start=s3://rayscale/runs/edsr-x2/model.safetensors

Resume: the same command again. A run is named after its configuration (or run.name) and goes on from its last
committed checkpoint, with any number of workers. --list-options prints every key with its default and meaning.
Metrics and pictures go to MLFLOW_TRACKING_URI when that is set.
Exit codes: 0 complete, 1 failed, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale.errors import ConfigError, RayscaleError
from rayscale.training.config import TrainConfig, load_config, options_table
from rayscale.training.run import describe

if TYPE_CHECKING:
    from rayscale.registry import MlflowLogger
    from rayscale.training.run import TrainResult

COMPLETE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.list_options:
        print(options_table())
        return COMPLETE
    try:
        result = train(options)
        table = dict(describe(result))
        if options.register:
            table["registered"] = register(result, options.register, options.alias)
    except RayscaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
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
        help="override one key, such as optimizer.lr=2e-4; repeatable",
    )  # fmt: skip
    add("--workers", type=int, metavar="N", help="the same as --set workers.count=N")
    add("--fresh", action="store_true", help="delete what this run has trained and start over")
    add("--register", metavar="NAME", help="publish the result in the MLflow registry as NAME")
    add("--alias", metavar="ALIAS", help="with --register: point this alias to the new version")
    add("--list-options", action="store_true", help="print every key and end")
    return parser.parse_args(arguments)


def train(options: argparse.Namespace) -> TrainResult:
    overrides = list(options.set)
    if options.workers is not None:
        overrides.append(f"workers.count={options.workers}")
    config = load_config(options.config, overrides).resolved()
    tracking = config.logging.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if options.register:
        if not tracking:
            raise ConfigError("--register needs MLFLOW_TRACKING_URI, the server with the registry")
        os.environ["MLFLOW_TRACKING_URI"] = tracking
    print(config.to_yaml())
    print(f"run: {config.uri}")
    print(
        f"tracking: {'MLflow' if tracking else 'none (MLFLOW_TRACKING_URI is not set)'}", flush=True
    )

    from rayscale import cluster
    from rayscale.training.ray import fit

    print(f"ray: {cluster.connect()}", flush=True)
    factory = functools.partial(mlflow_logger, tracking) if tracking else None
    return fit(config, logger_factory=factory, fresh=options.fresh)


def mlflow_logger(tracking: str, config: TrainConfig) -> MlflowLogger:
    """The logger of rank 0, made in its process; the server's address does not become part of the run."""
    os.environ["MLFLOW_TRACKING_URI"] = tracking
    from rayscale.registry import MlflowLogger

    tags = {"rayscale.uri": config.uri, "rayscale.config": config.digest}
    return MlflowLogger(config.logging.experiment, config.run.name or "", tags=tags)


def register(result: TrainResult, name: str, alias: str | None) -> str:
    """Publish the weights with their scores; gives ``name/version``."""
    from rayscale.registry import publish

    scores = {}
    if result.protocol:
        scores["validation"] = {
            "protocol": result.protocol,
            "scale": result.model["scales"][0],
            "psnr": result.metrics["psnr"],
            "ssim": result.metrics["ssim"],
        }
    version = publish(
        result.weights or "",
        name,
        scores=scores,
        dataset_digest=result.dataset["digest"],
        alias=alias,
        run_id=result.run_id,
        tags={"rayscale.run": result.uri},
    )
    return version.ref + (f" ({name}@{alias})" if alias else "")


if __name__ == "__main__":
    sys.exit(main())
