"""Grafana dashboards of the figures, as the JSON that Grafana imports and provisions.

``python -m rayscale.operations.dashboards FOLDER`` writes a file for each.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rayscale import strictjson
from rayscale.operations.figures import DASHBOARDS, Figure

_WIDTH, _HEIGHT, _ACROSS = 8, 8, 3
_SOURCE = {"type": "prometheus", "uid": "${source}"}


def render(name: str) -> dict[str, Any]:
    """The dashboard of this name (a key of ``figures.DASHBOARDS``)."""
    return {
        "uid": f"rayscale-{name}",
        "title": f"rayscale: {name}",
        "tags": ["rayscale"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "name": "source",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                }
            ]
        },
        "panels": [_panel(number, figure) for number, figure in enumerate(DASHBOARDS[name])],
    }


def _panel(number: int, figure: Figure) -> dict[str, Any]:
    row, column = divmod(number, _ACROSS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": figure.title,
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": figure.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
                "calcs": [],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
            }
            for index, query in enumerate(figure.queries)
        ],
    }


def render_all() -> dict[str, str]:
    """File names and their texts."""
    return {f"{name}.json": strictjson.dumps(render(name), indent=1) + "\n" for name in DASHBOARDS}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in render_all().items():
        (folder / name).write_text(text)
