"""From a command line to a trained, registered model: what the training jobs of ``jobs/`` share.

Each job names its family of systems and shows its commands; everything else of it is here.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rayscale.errors import ConfigError
from rayscale.interruption import COMPLETE, run
from rayscale.training.config import (
    RunConfig,
    TrainConfig,
    load_config,
    merged,
    options_table,
    system_of,
)

if TYPE_CHECKING:
    from rayscale.registry import MlflowLogger
    from rayscale.training.run import TrainResult

Config = TypeVar("Config", bound=RunConfig)

FAMILIES: dict[str, tuple[str, ...]] = {
    "jobs/train_edsr.py": ("edsr-baseline", "edsr"),
    "jobs/train_mdsr.py": ("mdsr-baseline", "mdsr"),
    "jobs/train_classic.py": ("srcnn", "srcnn-955", "vdsr", "srresnet"),
    "jobs/train_aplus.py": ("aplus",),
    "jobs/train_srgan.py": ("srgan",),
    "jobs/train_meta_srgan.py": ("meta-srgan", "meta-edsr"),
}
"""The jobs and the systems each trains, its default first."""


def main(arguments: list[str] | None, script: str, usage: str) -> int:
    """Run a job that trains a network; its exit code. ``script`` is a key of ``FAMILIES``, ``usage`` its docstring."""
    options = parse(arguments, script, usage)

    def work() -> int:
        from rayscale.training.run import describe

        fit = functools.partial(fit_network, fresh=options.fresh)
        return train(options, configuration(options, script), fit, describe)

    return run(work, "the same command resumes from the last checkpoint")


def parse(arguments: list[str] | None, script: str, usage: str) -> argparse.Namespace:
    """The command line of a job that trains a network."""
    parser = parser_of(script, usage)
    parser.add_argument("--workers", type=int, metavar="N", help="same as --set workers.count=N")
    return parser.parse_args(arguments)


def parser_of(script: str, usage: str) -> argparse.ArgumentParser:
    """The options of every training job."""
    parser = argparse.ArgumentParser(
        prog=script, description=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help=".yaml, .json or .toml, local or s3://")
    add(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="override one key, such as optimizer.lr=2e-4; repeatable",
    )  # fmt: skip
    systems = FAMILIES[script]
    add(
        "--system", choices=systems,
        help=f"the same as --set model.name=..., {systems[0]} by default",
    )  # fmt: skip
    add("--fresh", action="store_true", help="delete what this run has trained and start over")
    add("--register", metavar="NAME", help="publish the result in the MLflow registry as NAME")
    add("--alias", metavar="ALIAS", help="with --register: point this alias to the new version")
    add("--list-options", action="store_true", help="print every key and end")
    return parser


def configuration(options: argparse.Namespace, script: str) -> TrainConfig:
    """The configuration of a command line; ConfigError for a system of another job."""
    overrides = list(options.set)
    if options.system:
        overrides.append(f"model.name={options.system}")
    if options.workers is not None:
        overrides.append(f"workers.count={options.workers}")
    config = load_config(options.config, overrides, FAMILIES[script][0])
    if config.model.name not in FAMILIES[script]:
        other = script_of(config.model.name)
        raise ConfigError(
            f"{script} trains {', '.join(FAMILIES[script])}, not {config.model.name}"
            + (f"; use {other}" if other else "")
        )
    return config


def script_of(system: str) -> str | None:
    """The job that trains ``system``."""
    return next((script for script, systems in FAMILIES.items() if system in systems), None)


def pick_script(arguments: list[str]) -> str:
    """The job for a command line: by ``--system``, ``--set model.name=`` or its file; EDSR's by default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--system")
    parser.add_argument("--config")
    parser.add_argument("--set", action="append", default=[])
    options, _ = parser.parse_known_args(arguments)
    # Not validated: which keys there are depends on the job.
    system = options.system or system_of(merged(options.config, options.set))
    script = script_of(system)
    if script is None:
        known = ", ".join(name for systems in FAMILIES.values() for name in systems)
        raise ConfigError(f"there is no job that trains {system!r}; the systems are {known}")
    return script


def train(
    options: argparse.Namespace,
    config: Config,
    fit: Callable[[Config], TrainResult],
    rows: Callable[[TrainResult], dict[str, str]],
) -> int:
    """Train, and register where the options say so; told on the way and in a table of ``rows`` at the end.

    The tracking server becomes that of this process. With --list-options, only the configuration is shown.
    """
    if options.list_options:
        print(options_table(config))
        return COMPLETE
    tracking = config.logging.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if tracking:
        os.environ["MLFLOW_TRACKING_URI"] = tracking
    elif options.register:
        raise ConfigError("--register needs MLFLOW_TRACKING_URI, the server with the registry")
    if options.register:
        from rayscale.registry import check_name

        check_name(options.register, options.alias)  # before the training, not after it
    elif options.alias is not None:
        raise ConfigError(
            f"--alias {options.alias} goes with --register NAME, the model that it points to"
        )
    config = config.identified()
    print(config.to_yaml())
    print(f"run: {config.uri}")
    print(f"tracking: {'MLflow' if tracking else 'none (MLFLOW_TRACKING_URI is not set)'}")

    from rayscale import cluster

    print(f"ray: {cluster.connect()}", flush=True)
    result = fit(config)
    table = rows(result)
    width = max(map(len, table))
    print("\n" + "\n".join(f"{name:{width}}  {value}" for name, value in table.items()), flush=True)
    if options.register:  # after the table: should it fail, that says where the weights are
        print(f"{'registered':{width}}  {register(result, options.register, options.alias)}")
    return COMPLETE


def fit_network(config: TrainConfig, *, fresh: bool) -> TrainResult:
    """Train a network on the connected cluster."""
    from rayscale.training.ray import fit

    tracking = os.environ.get("MLFLOW_TRACKING_URI")
    factory = functools.partial(mlflow_logger, tracking) if tracking else None
    return fit(config, logger_factory=factory, fresh=fresh)


def mlflow_logger(tracking: str, config: RunConfig) -> MlflowLogger:
    """The logger of rank 0, made in its process; the server's address does not become part of the run."""
    os.environ["MLFLOW_TRACKING_URI"] = tracking
    from rayscale.registry import MlflowLogger

    tags = {"rayscale.uri": config.uri, "rayscale.config": config.digest}
    return MlflowLogger(config.logging.experiment, config.run.name or "", tags=tags)


def register(result: TrainResult, name: str, alias: str | None) -> str:
    """Publish the weights with their scores; gives ``name/version``."""
    from rayscale.registry import publish

    version = publish(
        result.weights or "",
        name,
        scores=scores_of(result),
        dataset_digest=result.dataset["digest"],
        alias=alias,
        run_id=result.run_id,
        tags={"rayscale.run": result.uri},
    )
    return version.ref + (f" ({name}@{alias})" if alias else "")


def scores_of(result: TrainResult) -> dict[str, Any]:
    """The validation scores as the registry stores them: ``validation``, or ``validation-x2``, ... of several.

    Each has the digest of the ``benchmark`` that it was measured on.
    """
    from rayscale.training.run import scale_suffixes

    if not result.protocol:
        return {}
    digests = result.benchmark.get("digests", {})
    scores = {}
    for suffix in scale_suffixes(result.metrics) or [""]:
        # Of several scales a benchmark may have one.
        name = suffix.removeprefix("_") or next(iter(digests), "")
        scores["validation" + suffix.replace("_", "-")] = {
            "protocol": result.protocol,
            "benchmark": digests.get(name),
            "scale": int(name.removeprefix("x")) if name else result.model["scales"][0],
            "psnr": result.metrics[f"psnr{suffix}"],
            "ssim": result.metrics[f"ssim{suffix}"],
        }
    return scores
