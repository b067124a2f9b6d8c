"""Scores as the EDSR paper's Table 3 shows them: sets and scales down, models across, published figures beside.

Markdown for people, JSON for programs. Pictures of the same scores are drawn by ``plots``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rayscale import strictjson
from rayscale.evaluation.benchmark import STORED, Report
from rayscale.evaluation.cost import SIDE, Cost
from rayscale.evaluation.published import Figure, find, set_name
from rayscale.evaluation.suites import MEASURES, Measure
from rayscale.imaging.metrics import PROTOCOLS

_ABSENT = "-"


@dataclass(frozen=True)
class Entry:
    """One model on one set at one scale.

    ``data`` is where the set lies; ``system`` the name that published figures have, with a ``+`` for the
    self-ensemble; ``weights`` the digest of the weights; ``device`` what the seconds were measured on.
    """

    data: str
    report: Report
    system: str
    weights: str
    cost: Cost
    device: str

    @property
    def dataset(self) -> str:
        return set_name(self.data)

    @property
    def published(self) -> Figure | None:
        """The figure of the same system, set, scale and protocol in the literature."""
        if not self.report.is_of_the_benchmark:
            return None
        return find(self.dataset, self.report.scale, self.system, self.report.protocol)

    def to_dict(self) -> dict[str, Any]:
        """The report with all that the table says about it."""
        published = self.published
        return {
            "set": self.dataset,
            "data": self.data,
            "system": self.system,
            "weights": self.weights,
            **self.report.to_dict(),
            "published": None if published is None else vars(published),
            "parameters": self.cost.parameters,
            f"macs_{SIDE}x{SIDE}": self.cost.macs,
            "seconds_per_megapixel": self.report.seconds_per_megapixel,
            "device": self.device,
        }


def to_json(entries: Sequence[Entry]) -> str:
    """A list with one object per entry."""
    return strictjson.document([entry.to_dict() for entry in entries])


def to_markdown(entries: Sequence[Entry]) -> str:
    """All tables: the scores, the measures of a suite where there are any, the costs."""
    parts = [_scores(entries)]
    if entries[0].report.measures:
        parts.append(_measures(entries))
    return "\n\n".join([*parts, _costs(entries)]) + "\n"


def _scores(entries: Sequence[Entry]) -> str:
    models = list(dict.fromkeys(entry.report.model for entry in entries))
    lines = []
    for group in _groups(entries):
        psnr = _rank([e.report.psnr for e in group], lambda v: f"{v:.2f}", higher=True)
        ssim = _rank([e.report.ssim for e in group], lambda v: f"{v:.4f}", higher=True)
        cells = {
            entry.report.model: f"{p} / {s}{_find_published(entry.published)}"
            for entry, p, s in zip(group, psnr, ssim, strict=True)
        }
        lines.append([*_place(group[0]), *(cells.get(model, _ABSENT) for model in models)])
    protocols = dict.fromkeys(entry.report.protocol for entry in entries)
    sources = dict.fromkeys(e.published.source for e in entries if e.published is not None)
    notes = ["PSNR in dB / SSIM, means over the images; **best**, _second best_."]
    if sources:
        notes.append(f"In brackets what was published: {'; '.join(sources)}.")
    degradations = dict.fromkeys(entry.report.degradation for entry in entries)
    notes += [f"LR images made by `{name}`." for name in degradations if name != STORED]
    notes += [f"Protocol `{name}`: {PROTOCOLS[name].description}." for name in protocols]
    return "\n".join([_grid(["set", "scale", *models], lines), "", *notes])


def _measures(entries: Sequence[Entry]) -> str:
    names = list(entries[0].report.measures)
    lines = []
    for group in _groups(entries):
        columns = [_column(MEASURES[n], [e.report.measures[n] for e in group]) for n in names]
        for index, entry in enumerate(group):
            lines.append([*_place(entry), entry.report.model, *(c[index] for c in columns)])
    titles = [f"{MEASURES[n].title} {'↑' if MEASURES[n].higher else '↓'}" for n in names]
    notes = "FRC: finest detail shared with the reference. LR: against the source, after shrinking."
    return "\n".join([_grid(["set", "scale", "model", *titles], lines), "", notes])


def _column(measure: Measure, values: list[float]) -> list[str]:
    return _rank(values, lambda v: f"{v:.{measure.digits}f}", higher=measure.higher)


def _costs(entries: Sequence[Entry]) -> str:
    models = list(dict.fromkeys(entry.report.model for entry in entries))
    groups: dict[tuple[int, float], list[Entry]] = {}
    for entry in entries:
        place = models.index(entry.report.model), entry.report.scale
        groups.setdefault(place, []).append(entry)
    lines = []
    for (number, scale), same in sorted(groups.items()):
        images = [image for entry in same for image in entry.report.images]
        seconds = sum(i.seconds for i in images) / sum(i.megapixels for i in images)
        cost, weights = same[0].cost, same[0].weights
        lines.append(
            [
                models[number],
                f"x{scale:g}",
                f"{cost.parameters:,}",
                f"{cost.macs / 1e9:,.1f}",
                f"{seconds:.3g}",
                weights if weights.startswith("built-in") else weights[:12],
            ]
        )
    header = ["model", "scale", "parameters", "GMAC", "s / megapixel", "weights"]
    devices = ", ".join(dict.fromkeys(entry.device for entry in entries))
    notes = (
        f"GMAC: multiply-accumulates of convolutions and matrix products for an input of {SIDE} x {SIDE}. "
        f"Seconds per megapixel of the result, on: {devices}."
    )
    return "\n".join([_grid(header, lines), "", notes])


def _groups(entries: Sequence[Entry]) -> Iterable[list[Entry]]:
    """The entries of each set and scale, in the order in which they came first."""
    groups: dict[tuple[str, float], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.data, entry.report.scale), []).append(entry)
    return groups.values()


def _place(entry: Entry) -> tuple[str, str]:
    return entry.dataset, f"x{entry.report.scale:g}"


def _find_published(figure: Figure | None) -> str:
    if figure is None:
        return ""
    ssim = "" if figure.ssim is None else f" / {figure.ssim:.4f}"
    return f" ({figure.psnr:.2f}{ssim})"


def _rank(values: list[float], show: Callable[[float], str], *, higher: bool) -> list[str]:
    """The values as text, the best bold and the second best in italics; values that look equal share a rank."""
    texts = [show(value) for value in values]
    order = sorted({show(v): v for v in values}.items(), key=lambda item: item[1], reverse=higher)
    if len(order) == 1:
        return texts
    marked = {order[0][0]: f"**{order[0][0]}**", order[1][0]: f"_{order[1][0]}_"}
    return [marked.get(text, text) for text in texts]


def _grid(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table whose columns also line up as plain text; all but the first are set to the right."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def line(cells: list[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return f"| {' | '.join([first, *rest])} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, lines)])
