"""The figures that papers and their authors report, to be set beside measured ones.

``published.csv`` holds the facts: Table 3 of the EDSR paper (Lim et al. 2017), the DIV2K figures in the README of
EDSR-PyTorch, and BasicSR's evaluation of the official weights in RGB. A figure is found only under its own protocol.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rayscale.evaluation.benchmark import at_scale

_FILE = Path(__file__).with_name("published.csv")
# The literature's SRCNN is the larger of the two networks, 9-5-5; nothing there is of the network called srcnn here.
_REPORTED = {"srcnn-955": "srcnn", "srcnn": None}
_SCALE = re.compile(r"x[\d.]+", re.IGNORECASE)


@dataclass(frozen=True)
class Figure:
    """A published score: PSNR in dB, SSIM where it was reported, and where to read it."""

    psnr: float
    ssim: float | None
    source: str


@cache
def figures() -> dict[tuple[str, float, str, str], Figure]:
    """All of them, by (set, scale, model, protocol); a ``+`` ends the names of self-ensembles."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return {
            (row["set"], int(row["scale"]), row["model"], row["protocol"]): Figure(
                float(row["psnr"]), float(row["ssim"]) if row["ssim"] else None, row["source"]
            )
            for row in csv.DictReader(file)
        }


def find(dataset: str, scale: float, model: str, protocol: str) -> Figure | None:
    """The published figure of a system on a set, as :func:`set_name` calls it; None where there is none."""
    name = model.removesuffix("+")
    system = _REPORTED.get(name, name)
    if system is None:
        return None
    return figures().get((dataset, scale, system + model[len(name) :], protocol))


def set_name(uri: str) -> str:
    """The name of the set that a folder or prefix holds, as tables call it.

    >>> set_name("s3://bucket/benchmarks/set5/x2")
    'Set5'
    >>> set_name("scans/x{scale}")
    'scans'
    """
    parts = [part for part in uri.removeprefix("s3://").split("/") if part]
    known = {name.lower(): name for name, *_ in figures()}
    for part in reversed(parts):
        name = re.split(r"[_-]", part.lower())[0]
        if name in known:
            return known[name]
    own = [part for part in parts if not _SCALE.fullmatch(at_scale(part, 1))]
    return own[-1] if own else uri
