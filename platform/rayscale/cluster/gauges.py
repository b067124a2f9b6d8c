"""Figures of what runs on a cluster, as Ray's own metrics: every node serves them at its metrics port, with ``ray_`` in front."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any


class Gauges:
    """Gauges ``<prefix>_<name>`` that are labelled with a run; where no Ray was joined they are nowhere, and cost nothing."""

    def __init__(self, prefix: str, run: str) -> None:
        self._prefix, self._run = prefix, run
        self._gauges: dict[str, Any] = {}

    def set(self, figures: Mapping[str, float]) -> None:
        """Set each figure; what stands before a slash in a name is left out."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        for name, value in figures.items():
            self._gauge(name).set(value, tags={"run": self._run})

    def _gauge(self, name: str) -> Any:
        from ray.util.metrics import Gauge

        if name not in self._gauges:
            full = f"{self._prefix}_" + re.sub(r"\W", "_", name.rpartition("/")[2])
            self._gauges[name] = Gauge(full, f"{name}, by run", tag_keys=("run",))
        return self._gauges[name]
