"""Scores of a benchmark as an MLflow run of their own: parameters, figures, and the files that show them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from rayscale.registry.client import asking, connect, ensure_experiment
from rayscale.registry.tracking import metric_name

EXPERIMENT = "rayscale-evaluations"


def log_evaluation(
    run: str,
    *,
    params: Mapping[str, str],
    metrics: Mapping[str, float],
    files: Mapping[str, bytes],
    experiment: str = EXPERIMENT,
) -> str:
    """A new run called ``run`` that holds all of it; its id.

    ``files`` maps paths below the run's artifacts to contents. Characters that MLflow refuses in the names of metrics
    become ``_``.

    Raises ConfigError without ``MLFLOW_TRACKING_URI``, RegistryError when the server is gone or refuses.
    """
    client = connect()
    with asking(f"log the evaluation {run!r}"), tempfile.TemporaryDirectory() as scratch:
        from mlflow.entities import Metric, Param

        made = client.create_run(ensure_experiment(client, experiment), run_name=run)
        run_id = str(made.info.run_id)
        client.log_batch(
            run_id,
            metrics=[
                Metric(metric_name(name), value, made.info.start_time, 0)
                for name, value in metrics.items()
            ],
            params=[Param(name, value) for name, value in params.items()],
        )
        for name, content in files.items():
            path = Path(scratch, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        client.log_artifacts(run_id, scratch)
        client.set_terminated(run_id, "FINISHED")
    return run_id
