"""``rayscale train``: from a command line to a trained, registered model. The work is ``rayscale.training``."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from rayscale.cli.console import hint
from rayscale.cli.options import OverridesOption
from rayscale.errors import ConfigError

if TYPE_CHECKING:
    from rayscale.registry import MlflowLogger
    from rayscale.training.aplus import APlusConfig
    from rayscale.training.config import RunConfig, TrainConfig
    from rayscale.training.run import TrainResult

Checkpoint = Literal["best", "last"]


class NamesSystems(TyperCommand):
    """The command whose ``--system`` shows every system, those of other packages too; they are known once torch is loaded."""

    def get_params(self, context: Any) -> list[Any]:
        """The parameters, with the systems in the help of one."""
        from rayscale.training.recipes import trained_systems

        shown: list[Any] = super().get_params(context)
        for each in shown:
            if each.name == "system" and "Systems: " not in each.help:
                each.help += f" Systems: {', '.join(trained_systems())}."
        return shown


def train(
    *,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What to train, the same as --set model.name=NAME. Default: that of the configuration, or edsr-baseline.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help=".yaml, .json or .toml, a path or s3://..."),
    ] = None,
    overrides: OverridesOption = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN:MAX",
            help="The same as --set workers.count=N. MIN:MAX trains with as many workers as the cluster has room for, and "
            "follows it as nodes come and go (workers.minimum).",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete what this run has trained and start over.")
    ] = False,
    register: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Publish the result in the MLflow registry as NAME."),
    ] = None,
    alias: Annotated[
        str | None, typer.Option(help="With --register: point this alias to the new version.")
    ] = None,
    checkpoint: Annotated[
        Checkpoint,
        typer.Option(
            help="With --register: the weights with the best validation PSNR, or the last ones. Without validation "
            "images there are only the last."
        ),
    ] = "best",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Train nothing: print steps, samples, bytes, memory, time and energy, from a few seconds of steps on this "
            "machine. What cannot fit is an error.",
        ),
    ] = False,
    list_options: Annotated[
        bool,
        typer.Option(
            "--list-options", help="Print every key with its value and meaning, and exit."
        ),
    ] = False,
    anomaly: Annotated[
        bool,
        typer.Option(
            "--anomaly",
            help="Check every gradient and name the operation whose gradient is not finite: slow. The same as --set "
            "guard.anomaly=true.",
        ),
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Keep a trace of five steps of rank 0 in profile/ of the run, for https://ui.perfetto.dev. The same as "
            "--set logging.profile=5.",
        ),
    ] = False,
    default_system: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train a system on Ray from shards of `rayscale prepare`, by its published recipe.

    rayscale train --set data.uri=s3://bucket/dataset --workers 2

    rayscale train --system vdsr --set data.uri=s3://bucket/dataset --set recipe=short

    rayscale train --system srresnet --list-options

    A run is named after its configuration (or run.name). The same command again resumes it from its last checkpoint,
    with any number of workers; A+, which takes minutes, starts over. Metrics and pictures go to MLFLOW_TRACKING_URI
    when that is set.

    Exit code: 0 complete, 1 failed, 2 wrong usage or configuration.
    """
    overrides = [*(overrides or []), *(["guard.anomaly=true"] if anomaly else [])]
    overrides += ["logging.profile=5"] if profile else []
    asked = configuration(config, overrides, system, workers, default_system)
    if list_options:
        from rayscale.training.config import options_table

        print(options_table(asked))
        return
    if dry_run:
        print_cost(asked)
        return
    use_registry(asked, register, alias)
    train_and_publish(asked, fresh, register, alias, checkpoint)


def print_cost(config: TrainConfig | APlusConfig) -> None:
    """What a run will take, as a table."""
    from rayscale.training.aplus import APlusConfig

    if isinstance(config, APlusConfig):
        raise ConfigError(
            "--dry-run: aplus takes minutes and no steps; its memory is 1 GB at x2 and 2 GB at x4 for 5 million samples"
        )
    from rayscale.training.cost import estimate

    rows = estimate(config).rows()
    width = max(map(len, rows))
    print("\n".join(f"{name:{width}}  {value}" for name, value in rows.items()))


def configuration(
    file: str | None,
    overrides: list[str],
    system: str | None = None,
    workers: str | int | None = None,
    default_system: str | None = None,
) -> TrainConfig | APlusConfig:
    """The configuration of a command line; ``default_system`` is that where nothing names one."""
    from rayscale.models.systems import model_names
    from rayscale.training.config import load_config, merge, system_of
    from rayscale.training.recipes import trained_systems

    overrides = [*overrides, *([f"model.name={system}"] if system else [])]
    name = system_of(merge(file, overrides))
    if name == "aplus":
        from rayscale.training.aplus import APlusConfig

        if workers is not None:
            raise ConfigError(
                f"--workers {workers}: aplus trains in one task; give it CPUs with --set workers.cpus={workers}"
            )
        return APlusConfig.load(file, overrides)
    if workers is not None:
        overrides += _count_workers(str(workers))
    config = load_config(file, overrides, default_system)
    systems = trained_systems()
    if config.model.name in model_names() and config.model.name not in systems:
        raise ConfigError(
            f"{config.model.name} has no weights to train; the systems are {', '.join(systems)}"
        )
    return config


def _count_workers(text: str) -> list[str]:
    """The settings of ``--workers``."""
    first, colon, last = text.partition(":")
    numbers = [first, last] if colon else [first]
    if not all(number.isdecimal() and int(number) for number in numbers):
        raise ConfigError(
            f"--workers {text}: give a number, such as 2, or the fewest and the most, such as 1:8"
        )
    if not colon:
        return [f"workers.count={first}"]
    return [f"workers.minimum={first}", f"workers.count={last}"]


def use_registry(
    config: RunConfig, name: str | None, alias: str | None, *, option: str = "--register"
) -> None:
    """Make the tracking server that of this process; ConfigError for a name or alias that cannot be published."""
    tracking = config.logging.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if tracking:
        os.environ["MLFLOW_TRACKING_URI"] = tracking
    elif name:
        raise ConfigError(f"{option} needs MLFLOW_TRACKING_URI, the server with the registry")
    if name:
        from rayscale.registry import check_name

        check_name(name, alias)  # before the training, not after it
    elif alias is not None:
        raise ConfigError(
            f"--alias {alias} needs {option} NAME, the model that the alias points to"
        )


def train_and_publish(
    config: TrainConfig | APlusConfig,
    fresh: bool,
    name: str | None,
    alias: str | None,
    checkpoint: Checkpoint = "best",
) -> None:
    """Train, register the result as ``name`` unless that is None, and print what came of it as a table."""
    from rayscale import cluster
    from rayscale.training.aplus import APlusConfig

    config = config.identified()
    tracking = os.environ.get("MLFLOW_TRACKING_URI")
    print(config.to_yaml())
    print(f"run: {config.uri}")
    print(f"tracking: {'MLflow' if tracking else 'none (MLFLOW_TRACKING_URI is not set)'}")
    factory = functools.partial(mlflow_logger, tracking) if tracking else None
    again = isinstance(config, APlusConfig)
    with hint(f"the same command {'starts over' if again else 'resumes from the last checkpoint'}"):
        print(f"ray: {cluster.connect()}", flush=True)
        if isinstance(config, APlusConfig):
            from rayscale.training import task

            result = task.fit(config, logger_factory=factory, fresh=fresh)
        else:
            from rayscale.training import ray

            result = ray.fit(config, logger_factory=factory, fresh=fresh)
    table = rows_of(result)
    width = max(map(len, table))
    print("\n" + "\n".join(f"{row:{width}}  {value}" for row, value in table.items()), flush=True)
    if name:  # after the table: should it fail, that says where the weights are
        print(f"{'registered':{width}}  {publish(chosen(result, checkpoint), name, alias)}")


def rows_of(result: TrainResult) -> dict[str, str]:
    """The table that ends a run."""
    from rayscale.training.run import describe

    if result.model.get("system") != "aplus":
        return describe(result)
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


def mlflow_logger(tracking: str, config: RunConfig) -> MlflowLogger:
    """The logger of rank 0, made in its process; the server's address does not become part of the run."""
    os.environ["MLFLOW_TRACKING_URI"] = tracking
    from rayscale.registry import MlflowLogger

    tags = {"rayscale.uri": config.uri, "rayscale.config": config.digest}
    return MlflowLogger(config.logging.experiment, config.run.name or "", tags=tags)


def chosen(result: TrainResult, checkpoint: Checkpoint) -> TrainResult:
    """The result as of the weights to publish: those with the best validation score, where there are such, or the last."""
    if checkpoint == "last" or not result.best:
        return result
    best = result.best
    metrics = {**result.metrics, **best["scores"]}
    return replace(result, weights=best["weights"], sha256=best["sha256"], metrics=metrics)


def publish(result: TrainResult, name: str, alias: str | None) -> str:
    """Publish the weights with their scores; gives ``name/version``."""
    from rayscale import registry

    version = registry.publish(
        result.weights or "",
        name,
        scores=scores_of(result),
        dataset_digest=result.dataset["digest"],
        alias=alias,
        run_id=result.run_id,
        tags={
            "rayscale.run": result.uri,
            "rayscale.degradation": result.dataset.get("degradation", "bicubic"),
        },
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
