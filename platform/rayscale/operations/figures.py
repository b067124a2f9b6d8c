"""The figures that are watched: what each is called, its query, its unit, and the dashboard that it stands on.

The one table behind the Grafana dashboards (``dashboards``), ``rayscale top``, and the test that asks Prometheus every query.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE = "$__rate_interval"
"""Over which Grafana takes rates; others put in an interval of their own."""


@dataclass(frozen=True)
class Query:
    """One PromQL expression; ``legend`` is Grafana's name of its series, with labels in ``{{...}}``."""

    expression: str
    legend: str = ""

    def over(self, interval: str) -> str:
        """The expression with an interval for its rates."""
        return self.expression.replace(RATE, interval)


@dataclass(frozen=True)
class Figure:
    """A panel, or a row of ``rayscale top``; ``unit`` is one of Grafana's. ``needs`` is what it has no data without: ``gpu``, ``energy``.

    ``energy`` are counters of processors that may be read.
    """

    title: str
    unit: str
    queries: tuple[Query, ...]
    needs: str = ""


def _figure(title: str, unit: str, *queries: str | tuple[str, str], needs: str = "") -> Figure:
    made = (Query(*query) if isinstance(query, tuple) else Query(query) for query in queries)
    return Figure(title, unit, tuple(made), needs)


DASHBOARDS: dict[str, tuple[Figure, ...]] = {
    "serving": (
        _figure(
            "Requests",
            "reqps",
            (f"sum by (status) (rate(rayscale_requests_total[{RATE}]))", "{{status}}"),
        ),
        _figure(
            "Latency",
            "s",
            (
                f"histogram_quantile(0.5, sum by (le) (rate(rayscale_request_seconds_bucket[{RATE}])))",
                "median",
            ),
            (
                f"histogram_quantile(0.99, sum by (le) (rate(rayscale_request_seconds_bucket[{RATE}])))",
                "99 %",
            ),
        ),
        _figure(
            "Refusals",
            "reqps",
            (
                f'sum by (code) (rate(rayscale_requests_total{{code!=""}}[{RATE}])) or vector(0)',
                "{{code}}",
            ),
        ),
        _figure("Images waiting", "short", ("sum(rayscale_images_waiting)", "waiting")),
        _figure("Images at work", "short", ("sum(rayscale_images_running)", "running")),
        _figure(
            "Time by stage",
            "s",
            (
                f"sum by (stage) (rate(rayscale_stage_seconds_sum[{RATE}])) "
                f"/ sum by (stage) (rate(rayscale_stage_seconds_count[{RATE}]))",
                "{{stage}}",
            ),
        ),
        _figure(
            "Output",
            "short",
            (
                f'sum by (model) (rate(rayscale_megapixels_total{{side="output"}}[{RATE}]))',
                "{{model}}",
            ),
        ),
        _figure("Model replicas", "short", ("count(rayscale_memory_budget_bytes)", "replicas")),
        _figure("Models in memory", "short", ("sum(rayscale_models_loaded)", "models")),
        _figure(
            "Memory for images",
            "percentunit",
            ("sum(rayscale_memory_held_bytes) / sum(rayscale_memory_budget_bytes)", "held"),
        ),
        _figure("Memory of processes", "bytes", ("rayscale_resident_bytes", "{{replica}}")),
        _figure("Age of aliases", "s", ("max(rayscale_alias_age_seconds)", "age")),
    ),
    "costs": (
        _figure(
            "Compute by key",
            "s",
            (f"sum by (key) (increase(rayscale_cost_seconds_total[{RATE}]))", "{{key}}"),
        ),
        _figure(
            "Megapixels by key",
            "short",
            (f"sum by (key) (increase(rayscale_cost_megapixels_total[{RATE}]))", "{{key}}"),
        ),
        _figure(
            "Bytes by key",
            "bytes",
            (
                f"sum by (key, side) (increase(rayscale_cost_bytes_total[{RATE}]))",
                "{{key}} {{side}}",
            ),
        ),
        _figure(
            "Compute by model",
            "s",
            (f"sum by (model) (increase(rayscale_cost_seconds_total[{RATE}]))", "{{model}}"),
        ),
        _figure(
            "Seconds of a megapixel",
            "s",
            (
                f"sum(rate(rayscale_cost_seconds_total[{RATE}])) / sum(rate(rayscale_cost_megapixels_total[{RATE}]))",
                "s/MP",
            ),
        ),
        _figure(
            "Compute by run",
            "s",
            ("ray_rayscale_train_work_seconds or ray_rayscale_batch_work_seconds", "{{run}}"),
        ),
        _figure(
            "Megapixels by run",
            "short",
            ("ray_rayscale_train_megapixels or ray_rayscale_batch_megapixels", "{{run}}"),
        ),
        _figure(
            "Bytes by run",
            "bytes",
            ("ray_rayscale_train_patch_bytes", "{{run}} patches"),
            ("ray_rayscale_batch_bytes", "{{run}} in"),
            ("ray_rayscale_batch_output_bytes", "{{run}} out"),
        ),
        _figure(
            "Energy by run",
            "joule",
            ("ray_rayscale_train_joules or ray_rayscale_batch_joules", "{{run}}"),
            needs="energy",
        ),
    ),
    "batch": (
        _figure(
            "Finished",
            "percentunit",
            ("ray_rayscale_batch_finished / ray_rayscale_batch_todo", "{{run}}"),
        ),
        _figure("Failed", "short", ("ray_rayscale_batch_failed", "{{run}}")),
        _figure(
            "Megapixels", "short", (f"deriv(ray_rayscale_batch_megapixels[{RATE}])", "{{run}}")
        ),
        _figure("Source bytes", "Bps", (f"deriv(ray_rayscale_batch_bytes[{RATE}])", "{{run}}")),
        _figure("Seconds", "s", ("ray_rayscale_batch_seconds", "{{run}}")),
    ),
    "training": (
        _figure("Step", "short", ("ray_rayscale_train_step", "{{run}}")),
        _figure("Loss", "short", ("ray_rayscale_train_loss", "{{run}}")),
        _figure("Steps per second", "short", ("ray_rayscale_train_steps_per_s", "{{run}}")),
        _figure("Waiting for data", "percentunit", ("ray_rayscale_train_data_wait", "{{run}}")),
        _figure("Memory of a worker", "bytes", ("ray_rayscale_train_memory_bytes", "{{run}}")),
        _figure("Time left", "s", ("ray_rayscale_train_seconds_left", "{{run}}")),
        _figure("Last checkpoint", "short", ("ray_rayscale_train_checkpoint_step", "{{run}}")),
    ),
    "cluster": (
        _figure("Nodes", "short", ("count(ray_node_cpu_count)", "alive")),
        _figure("CPU", "percent", ("ray_node_cpu_utilization", "{{ip}}")),
        _figure("Memory", "percentunit", ("ray_node_mem_used / ray_node_mem_total", "{{ip}}")),
        _figure("Disk", "percent", ("ray_node_disk_utilization_percentage", "{{ip}}")),
        _figure(
            "Object store", "bytes", ("sum by (Location) (ray_object_store_memory)", "{{Location}}")
        ),
        _figure("Tasks", "short", ("sum by (State) (ray_tasks)", "{{State}}")),
        _figure("Actors", "short", ("sum by (State) (ray_actors)", "{{State}}")),
        _figure(
            "GPU", "percent", ("ray_node_gpus_utilization", "{{ip}} {{GpuIndex}}"), needs="gpu"
        ),
    ),
}
"""Figures by dashboard, in the order in which they are shown."""


def every_query() -> list[tuple[str, Figure, Query]]:
    """All queries, each with its dashboard and figure."""
    return [
        (name, figure, query)
        for name, figures in DASHBOARDS.items()
        for figure in figures
        for query in figure.queries
    ]
