"""Search residual scaling and learning rate of EDSR with Ray Tune; bad trials are stopped early (ASHA).

Laptop (an embedded Ray; 8 trials of at most 400 steps, one after the other on 2 cores):
    python tune/sweep_edsr.py --set data.uri=$HOME/dataset --set validation.uri=$HOME/Set5/x2 --samples 8 --steps 400
Cluster, four trials at a time:
    ray job submit --working-dir . -- python tune/sweep_edsr.py --set data.uri=s3://rayscale/div2k \\
        --set validation.uri=s3://rayscale/Set5/x2 --samples 32 --steps 20000 --concurrent 4 \\
        --output s3://rayscale/best.yaml
Then train with the best values:
    python jobs/train_edsr.py --config best.yaml

A trial is a small Ray Train run below run.uri. The same command again goes on where it was interrupted: finished
trials are read from storage, others resume. Trials are compared by PSNR where validation.uri is set, else by loss.
Exit codes: 0 complete, 3 some trials failed, 1 all failed, 2 wrong usage or configuration, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import logging
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in ("platform", ".")]

from tune.spaces import SPACES

from rayscale import strictjson
from rayscale.errors import ConfigError, RayscaleError
from rayscale.interruption import COMPLETE, FAILED, PARTIAL, attend, run
from rayscale.storage import connect, split
from rayscale.training.config import TrainConfig, load_config
from rayscale.training.run import lease_of
from rayscale.training.validation import read_digests

TRIAL_CPU = 0.1  # of the process that waits for the workers of its trial


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return run(
        lambda: find_best(options),
        "every trial is saved; run the same command again to resume",
    )


def find_best(options: argparse.Namespace) -> int:
    """Search, show the trials, and write the best configuration."""
    folder, name = split(options.output)  # a wrong one is told before the trials
    store = connect(folder)
    sweep = plan(options).identified()
    with lease_of(f"{sweep.base.run.uri}/{sweep.name}"):
        benchmark = sweep.benchmark
        rows = search(sweep)
    show(sweep, rows)
    if sweep.benchmark != benchmark:
        raise RayscaleError(
            f"the images at {sweep.base.validation.uri} changed during the sweep, so that its trials cannot be compared; run "
            "the same command again to score them on those of now"
        )
    if rows[0]["error"]:
        print("error: no trial came to a result", file=sys.stderr)
        return FAILED
    store.write(name, best_config(sweep, rows[0]).to_yaml().encode())
    print(
        f"best configuration: {options.output}\n  python jobs/train_edsr.py --config {options.output}"
    )
    return COMPLETE if not any(row["error"] for row in rows) else PARTIAL


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="base configuration, as of jobs/train_edsr.py")
    add(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="override one key of the base, such as model.blocks=8; repeatable",
    )  # fmt: skip
    add("--space", choices=sorted(SPACES), default="edsr", help="default: %(default)s")
    add("--samples", type=int, default=8, help="trials, default %(default)s")
    add("--steps", type=int, default=1000, help="steps of a whole trial, default %(default)s")
    add("--concurrent", type=int, help="trials at a time; default: what the cluster holds")
    add("--seed", type=int, default=1, help="seed of the draws, default %(default)s")
    add(
        "--output",
        default="best.yaml",
        metavar="FILE",
        help="a path or s3://..., default: %(default)s",
    )
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Sweep:
    """What is searched: the base of every trial, and how trials are compared."""

    base: TrainConfig
    trial: TrainConfig
    space: str
    samples: int
    seed: int
    concurrent: int | None

    @property
    def name(self) -> str:
        """A hash of what decides the trials."""
        what = [self.trial.digest, self.space, self.seed, self.trial.optimizer.steps]
        digest = hashlib.sha256(strictjson.dumps(what).encode()).hexdigest()[:8]
        return f"sweep-{self.base.title}-{digest}"

    def identified(self) -> Sweep:
        """Named after the dataset itself, wherever it lies."""
        return replace(self, base=self.base.identified(), trial=self.trial.identified())

    @property
    def metric(self) -> str:
        return "psnr" if self.base.validation.uri else "loss"

    @property
    def benchmark(self) -> dict[str, str]:
        """The digests of the images that trials are scored on, as they are now; none where they are compared by loss."""
        uri = self.base.validation.uri
        return read_digests(uri, self.base.model.drawn) if uri else {}

    @property
    def mode(self) -> str:
        return "max" if self.base.validation.uri else "min"


def plan(options: argparse.Namespace) -> Sweep:
    """The sweep of a command line."""
    if options.samples < 1 or options.steps < 1:
        raise ConfigError(f"--samples {options.samples} and --steps {options.steps}: at least 1")
    base = load_config(options.config, options.set).resolved()
    # Eight reports let ASHA stop a trial at an eighth of its steps; each costs a validation.
    often = max(1, options.steps // 8)
    trial = override(
        base,
        {
            "optimizer.steps": options.steps,
            "validation.every": often,
            "validation.images": 0,
            "checkpoint.every": often,
            "checkpoint.keep": 1,
            "workers.max_failures": 1,
        },
    )
    return Sweep(base, trial, options.space, options.samples, options.seed, options.concurrent)


def search(sweep: Sweep) -> list[dict[str, Any]]:
    """Run the trials; one row each, as ``rank`` orders them."""
    from rayscale import cluster

    print(f"sweep: {sweep.name} below {sweep.base.run.uri}")
    print(f"ray: {cluster.connect(dashboard=True, log_to_driver=False)}", flush=True)
    # Tune's own tables and tracebacks: `progress` and `show` are shorter.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    from rayscale.training.ray import make_switch

    concurrent, shares = room(sweep, ray.cluster_resources())
    need = {"CPU": shares["workers.cpus"]} | ({"GPU": 1.0} if shares["workers.gpu"] else {})
    workers = sweep.trial.workers
    cluster.check_room(
        workers.count, need, "change workers.count or workers.gpu", wait=workers.wait
    )
    tracking = sweep.base.logging.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    parent = open_parent(sweep, tracking)
    switch, watcher = make_switch(), watch_trials(sweep)
    trainable = tune.with_resources(
        functools.partial(
            run_trial,
            switch=switch,
            sweep=sweep.name,
            base=override(sweep.trial, shares).model_dump(mode="json"),
            tracking=tracking,
            parent=getattr(parent, "run_id", None),
        ),
        {"CPU": TRIAL_CPU},
    )
    tuner = tune.Tuner(
        trainable,
        param_space=SPACES[sweep.space](),
        tune_config=tune.TuneConfig(
            metric=sweep.metric,
            mode=sweep.mode,
            num_samples=sweep.samples,
            search_alg=BasicVariantGenerator(random_state=sweep.seed, max_concurrent=concurrent),
            scheduler=ASHAScheduler(
                time_attr="step",
                max_t=sweep.trial.optimizer.steps,
                grace_period=sweep.trial.validation.every,
                reduction_factor=2,
            ),
        ),
        run_config=tune.RunConfig(
            name=sweep.name,
            # Trials keep their state in their own runs; Tune's bookkeeping is not needed afterwards.
            storage_path=cluster.scratch(sweep.base.run.uri or ""),
            verbose=0,
            callbacks=[watcher],
            stop=watcher,
        ),
    )

    def stop(number: int) -> None:
        print("stopping: the trials end after their current steps ...", flush=True)
        watcher.stop = True
        switch.stop.remote()

    try:
        rows = rank(sweep, attend(tuner.fit, stop))
        if parent is not None:
            log_best(sweep, parent, rows[0])
    finally:
        if parent is not None:
            parent.close()
    return rows


def log_best(sweep: Sweep, parent: Any, best: Mapping[str, Any]) -> None:
    """The best trial's figure and values in the sweep's MLflow run; nothing where all failed."""
    if not best["error"]:
        parent.log_metrics({f"best/{sweep.metric}": best[sweep.metric]}, sweep.samples)
        parent.log_params({f"best.{key}": value for key, value in best["values"].items()})


def room(sweep: Sweep, cluster: Mapping[str, float]) -> tuple[int, dict[str, Any]]:
    """How many trials at a time, and what each of their workers reserves: never more than there is.

    A trial waits inside its own small share for its workers. If the trials took what the workers need,
    nobody would ever start.
    """
    workers = sweep.trial.workers.count
    cpus = max(cluster.get("CPU", 1.0), 0.5)
    gpu = sweep.trial.workers.gpu is True or (
        sweep.trial.workers.gpu == "auto" and cluster.get("GPU", 0) >= workers
    )
    fitting = cluster.get("GPU", 0) if gpu else cpus / 2
    concurrent = sweep.concurrent or max(1, int(fitting // workers))
    share = (cpus / concurrent - TRIAL_CPU) / workers
    if share < 0.01:
        raise ConfigError(
            f"{concurrent} trials of {workers} workers do not fit {cpus:g} CPUs; lower --concurrent"
        )
    reserved = {"workers.cpus": min(1.0, int(100 * share) / 100), "workers.gpu": gpu}
    return concurrent, reserved | {"workers.threads": max(1, int(cpus / concurrent / workers))}


def run_trial(
    values: dict[str, Any],
    *,
    switch: Any,
    sweep: str,
    base: dict[str, Any],
    tracking: str | None,
    parent: str | None,
) -> None:
    """One trial, in its own process: a training run named after its configuration."""
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    from rayscale import cluster
    from rayscale.training.ray import fit

    cluster.connect()  # sets Ray Train's switches for this process
    config = override(TrainConfig.parse(base), values)
    config = override(config, {"run.name": f"{sweep}-{config.digest[:8]}"})

    class ReportUntilTheLast(TuneReportCallback):  # type: ignore[misc]
        """ASHA ends a trial at its last report: that one waits until the run's result is in storage."""

        def after_report(
            self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
        ) -> None:
            if metrics[0]["step"] < config.optimizer.steps:
                super().after_report(run_context, metrics, checkpoint)

    factory = functools.partial(child_logger, tracking, parent) if tracking else None
    result = fit(
        config,
        logger_factory=factory,
        callbacks=[ReportUntilTheLast()],
        verbose=False,
        switch=switch,
    )
    tune.report({**result.metrics, "step": result.steps})


def override(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration with ``section.key`` values replaced."""
    nested = config.model_dump(mode="json")
    for key, value in values.items():
        section, _, name = key.partition(".")
        nested[section][name] = value
    return TrainConfig.parse(nested)


def best_config(sweep: Sweep, best: dict[str, Any]) -> TrainConfig:
    """The base with the best values: as long as the base says, not as short as a trial, under its own name.

    The dataset may be another, as that of a sweep is often a small one.
    """
    return override(sweep.base, best["values"] | {"run.name": None, "data.digest": None})


def open_parent(sweep: Sweep, tracking: str | None) -> Any:
    """The MLflow run that the trials' runs belong to, or None."""
    if not tracking:
        print("tracking: none (MLFLOW_TRACKING_URI is not set)")
        return None
    os.environ["MLFLOW_TRACKING_URI"] = tracking
    from rayscale.registry import MlflowLogger

    logger = MlflowLogger(sweep.base.logging.experiment, sweep.name)
    logger.log_params(sweep.trial.flat() | {"space": sweep.space, "samples": sweep.samples})
    logger.flush()  # the trials need to know its id
    return logger


def child_logger(tracking: str, parent: str | None, config: TrainConfig) -> Any:
    """The logger of a trial, in rank 0's process."""
    os.environ["MLFLOW_TRACKING_URI"] = tracking
    from rayscale.registry import MlflowLogger

    tags = {"mlflow.parentRunId": parent} if parent else {}
    return MlflowLogger(config.logging.experiment, config.run.name or "", tags=tags)


def watch_trials(sweep: Sweep) -> Any:
    """A Tune callback that prints a line per report, and a stopper: once its ``stop`` is set, when no trial runs any more."""
    from ray import tune

    class Watcher(tune.Callback, tune.Stopper):  # type: ignore[misc]
        stop = False
        trials: Sequence[Any] = ()

        def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
            self.trials = trials

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return self.stop and not any(trial.status == "RUNNING" for trial in self.trials)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
        ) -> None:
            if sweep.metric in result:
                values = "  ".join(f"{k.split('.')[-1]} {v:.3g}" for k, v in trial.config.items())
                print(
                    f"{trial.trial_id}  {values}  step {int(result['step'])}  "
                    f"{sweep.metric} {result[sweep.metric]:.4g}",
                    flush=True,
                )

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            print(f"{trial.trial_id}  failed", flush=True)

    return Watcher()


def rank(sweep: Sweep, results: Iterable[Any]) -> list[dict[str, Any]]:
    """A row per trial (the sampled values, the last figures, ``error``): the best first, those that failed last.

    A trial that failed after good figures (a loss that became NaN) has failed: its values cannot be trained with.
    """
    sign = -1 if sweep.mode == "max" else 1
    rows = [row_of(result, sweep.metric) for result in results]
    return sorted(rows, key=lambda row: (1, 0.0) if row["error"] else (0, sign * row[sweep.metric]))


def row_of(result: Any, metric: str) -> dict[str, Any]:
    """What became of a trial; without a finite ``metric`` it has failed."""
    figures = result.metrics or {}
    kept = {key: figures[key] for key in ("step", "loss", "psnr", "ssim") if key in figures}
    lines = str(result.error).strip().splitlines() if result.error else []
    if not lines and not math.isfinite(kept.get(metric, math.nan)):
        lines = [f"no finite {metric}: {kept.get(metric, 'it was not measured')}"]
    return {"values": dict(result.config or {}), "error": lines[-1] if lines else "", **kept}


def show(sweep: Sweep, rows: list[dict[str, Any]]) -> None:
    """The trials as a table, the best first."""
    from rich.console import Console
    from rich.table import Table

    names = sorted({name for row in rows for name in row["values"]})
    table = Table(title=sweep.name)
    for name in (*names, "step", "loss", "psnr", "ssim", "status"):
        table.add_column(name, justify="right")
    for row in rows:
        stopped = row.get("step", 0) < sweep.trial.optimizer.steps
        status = "failed" if row["error"] else "stopped early" if stopped else "complete"
        cells = [f"{row['values'][name]:.3g}" for name in names]
        cells += [
            f"{row[key]:.4g}" if key in row else "" for key in ("step", "loss", "psnr", "ssim")
        ]
        table.add_row(*cells, status)
    Console().print(table)
    for error in sorted({row["error"] for row in rows} - {""}):
        print(f"failed: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
