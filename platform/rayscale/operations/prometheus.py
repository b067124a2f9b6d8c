"""Answers of a Prometheus to the queries of the figures."""

from __future__ import annotations

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass

from rayscale.errors import ConfigError, RayscaleError, without_passwords
from rayscale.operations.figures import Figure, Query

INTERVAL = "1m"
"""Over which rates are taken here."""

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Series:
    """One answer: what its legend is called, and its value now."""

    name: str
    value: float


def ask(server: str, query: Query, interval: str = INTERVAL) -> list[Series]:
    """What ``server`` (its URL) has for a query now; empty where there is no data.

    Raises ConfigError for what is not a URL, and RayscaleError where no Prometheus answers.
    """
    if not server.startswith(("http://", "https://")):
        raise ConfigError(
            f"{server!r} is not the URL of a Prometheus; set RAYSCALE_PROMETHEUS, such as http://127.0.0.1:9090 "
            "(`rayscale up --monitoring` starts one)"
        )
    text = urllib.parse.urlencode({"query": query.over(interval)})
    try:
        with urllib.request.urlopen(
            f"{server.rstrip('/')}/api/v1/query?{text}", timeout=_TIMEOUT_S
        ) as answer:
            found = json.load(answer)["data"]["result"]
    except (OSError, urllib.error.URLError, ValueError, KeyError, TypeError) as error:
        raise RayscaleError(
            f"no Prometheus answers at {without_passwords(server)} ({error}); correct RAYSCALE_PROMETHEUS, or start it "
            "(`rayscale up --monitoring`)"
        ) from error
    series = [Series(_name(query, each["metric"]), float(each["value"][1])) for each in found]
    return [each for each in series if math.isfinite(each.value)]


def _name(query: Query, labels: dict[str, str]) -> str:
    name = query.legend
    for label, value in labels.items():
        name = name.replace(f"{{{{{label}}}}}", value)
    return re.sub(r"{{\w+}}", "", name).strip()


_UNITS = {"reqps": "/s", "s": " s", "percent": " %", "Bps": " B/s", "bytes": " B", "joule": " J"}


def show(figure: Figure, value: float) -> str:
    """A value of a figure as people read it."""
    if figure.unit == "percentunit":
        return f"{100 * value:.1f} %"
    if figure.unit in ("bytes", "Bps"):
        for prefix in ("", "k", "M", "G", "T"):
            if abs(value) < 1000 or prefix == "T":
                return f"{value:.3g} {prefix}{_UNITS[figure.unit].strip()}"
            value /= 1000
    return f"{value:.4g}{_UNITS.get(figure.unit, '')}"
