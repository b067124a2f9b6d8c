"""What the service counts, in the text form of Prometheus, over all of its processes.

Every replica counts for itself; whichever ingress is asked gathers the counts of all and marks each with its ``replica``, so
that sums over the service are exact and a replica that is replaced does not show as a leap. Labels never hold names of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from rayscale.machine import joules
from rayscale.serving.keys import Key
from rayscale.serving.requests import Result

Snapshot = list[tuple[str, str, str, list[tuple[str, dict[str, str], float]]]]
"""Families of one process: name, meaning, type, samples."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STAGES = ("queue", "decode", "upscale", "encode")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class IngressMetrics:
    """What an ingress sees."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        on: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter(
            "rayscale_requests",
            "Requests by path, status, code of the refusal, and key",
            ["path", "status", "code", "key"],
            **on,
        )
        self._latency = Histogram(
            "rayscale_request_seconds", "From headers to the end of the answer", ["path"],
            buckets=_SECONDS, **on,
        )  # fmt: skip
        self._images = Counter(
            "rayscale_images", "Images by model, code of the refusal, and key",
            ["model", "code", "key"], **on,
        )  # fmt: skip
        self._stages = Histogram(
            "rayscale_stage_seconds", "Of an image, by stage", ["stage"], buckets=_SECONDS, **on
        )
        self._megapixels = Counter(
            "rayscale_megapixels", "Of sources and of outputs, by model", ["side", "model"], **on
        )
        self._cost_seconds = Counter(
            "rayscale_cost_seconds",
            "Of replicas on images, by key and model",
            ["key", "model"],
            **on,
        )
        self._cost_megapixels = Counter(
            "rayscale_cost_megapixels", "Of sources, by key", ["key"], **on
        )
        self._cost_bytes = Counter(
            "rayscale_cost_bytes", "Of images in and results out, by key", ["key", "side"], **on
        )
        self.waiting = Gauge("rayscale_images_waiting", "Images that wait for a replica", **on)
        self.running = Gauge("rayscale_images_running", "Images that replicas have", **on)
        self.held = Gauge("rayscale_body_bytes", "Bytes of bodies that are held", **on)
        _watch_memory(self.registry)

    def note_request(self, path: str, status: int, code: str, key: str, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, str(status), code, key).inc()
        self._latency.labels(path).observe(seconds)

    def note_image(self, result: Result, key: Key, size: int) -> None:
        """An image of so many bytes was enlarged."""
        self._images.labels(result.model, "", key.id).inc()
        spent = sum(result.seconds.get(stage, 0.0) for stage in _STAGES[1:])
        self._cost_seconds.labels(key.id, result.model).inc(spent)
        self._cost_megapixels.labels(key.id).inc(result.pixels / 1e6)
        self._cost_bytes.labels(key.id, "in").inc(size)
        self._cost_bytes.labels(key.id, "out").inc(len(result.data))
        for stage in _STAGES:
            if stage in result.seconds:
                self._stages.labels(stage).observe(result.seconds[stage])
        self._megapixels.labels("source", result.model).inc(result.pixels / 1e6)
        slices = max(
            1, round(result.pixels * result.scale**2 / max(1, result.width * result.height))
        )
        made = result.width * result.height * slices
        self._megapixels.labels("output", result.model).inc(made / 1e6)

    def note_refusal(self, code: str, key: Key) -> None:
        """An image was refused; its model may be any text, which a label must not be."""
        self._images.labels("", code, key.id).inc()


class ReplicaMetrics:
    """What a model replica sees."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        on: dict[str, Any] = {"registry": self.registry}
        if joules() is not None:
            energy = Gauge("rayscale_machine_joules", "Of the processors of the machine", **on)
            energy.set_function(lambda: joules() or 0.0)
        self._loads = Counter("rayscale_model_loads", "Models loaded", ["model"], **on)
        self.loaded = Gauge("rayscale_models_loaded", "Models in memory", **on)
        self.alias_age = Gauge(
            "rayscale_alias_age_seconds", "Since the registry last said what references mean", **on
        )
        self.budget = Gauge("rayscale_memory_budget_bytes", "That images may take", **on)
        self.held = Gauge("rayscale_memory_held_bytes", "Reserved for images at work", **on)
        _watch_memory(self.registry)

    def note_load(self, model: str) -> None:
        """A model was loaded."""
        self._loads.labels(model).inc()


def _watch_memory(registry: CollectorRegistry) -> None:
    resident = Gauge("rayscale_resident_bytes", "Memory of the process", registry=registry)
    resident.set_function(lambda: float(psutil.Process().memory_info().rss))


def take_snapshot(registry: CollectorRegistry) -> Snapshot:
    """All counts of this process, to be sent to another."""
    return [
        (
            family.name,
            family.documentation,
            family.type,
            [(sample.name, dict(sample.labels), sample.value) for sample in family.samples],
        )
        for family in registry.collect()
    ]


def render(snapshots: Iterable[tuple[str, Snapshot]]) -> bytes:
    """The text for Prometheus of the snapshots of several replicas, by their names."""
    families: dict[str, Metric] = {}
    for replica, snapshot in snapshots:
        for name, meaning, kind, samples in snapshot:
            family = families.setdefault(name, Metric(name, meaning, kind))
            for sample, labels, value in samples:
                family.add_sample(sample, {**labels, "replica": replica}, value)
    registry = CollectorRegistry()
    registry.register(_Gathered(list(families.values())))
    return generate_latest(registry)


class _Gathered:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
