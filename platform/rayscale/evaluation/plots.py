"""Scores as pictures: quality against what it costs, one panel per set and scale."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rayscale.evaluation.table import Entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MEASURED, _PUBLISHED, _FREE = "#1f5fa8", "#9a9a9a", "#c44e52"
# Where a name may stand beside its point, in points, and how it is set there; the first is the best.
_PLACES = (((6, 4), "left"), ((6, -11), "left"), ((-6, 4), "right"), ((-6, -11), "right"))


def over_parameters(entries: Sequence[Entry]) -> bytes:
    """PSNR against trained parameters, as PNG; a model without any is a line across."""
    return _draw(entries, "parameters", lambda entry: entry.cost.parameters)


def over_seconds(entries: Sequence[Entry]) -> bytes:
    """PSNR against the measured seconds per megapixel of the result, as PNG."""
    devices = ", ".join(dict.fromkeys(entry.device for entry in entries))
    return _draw(
        entries,
        f"seconds per megapixel of the result ({devices})",
        lambda entry: entry.report.seconds_per_megapixel,
    )


def _draw(entries: Sequence[Entry], title: str, cost: Callable[[Entry], float]) -> bytes:
    # The object-oriented interface: no global state, no display, safe beside a user's own figures.
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(entry.dataset for entry in entries))
    scales = sorted({entry.report.scale for entry in entries})
    size = (1.2 + 4.4 * len(scales), 0.9 + 3.4 * len(sets))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    panels = figure.subplots(len(sets), len(scales), squeeze=False)
    filled = []
    for row, dataset in zip(panels, sets, strict=True):
        for panel, scale in zip(row, scales, strict=True):
            here = [e for e in entries if (e.dataset, e.report.scale) == (dataset, scale)]
            _panel(panel, here, cost)
            panel.set_title(f"{dataset} x{scale:g}", fontsize=10, loc="left", fontweight="bold")
            filled.append((panel, here))
    protocols = ", ".join(dict.fromkeys(entry.report.protocol for entry in entries))
    figure.supxlabel(title, fontsize=10)
    figure.supylabel(f"PSNR dB ({protocols})", fontsize=10)
    figure.legend(*_legend(panels), loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    figure.draw_without_rendering()
    for panel, here in filled:
        _name(panel, here, cost)
    file = io.BytesIO()
    # Without the version of matplotlib, so that equal scores make equal files.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _panel(panel: Axes, entries: Sequence[Entry], cost: Callable[[Entry], float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(_tick)
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.grid(which="major", color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    panel.margins(x=0.22, y=0.14)
    for entry in entries:
        x, y = cost(entry), entry.report.psnr
        if x <= 0:
            continue
        panel.plot(x, y, "o", color=_MEASURED, label="measured", zorder=3)
        if entry.published is not None:
            published = entry.published.psnr
            panel.plot([x, x], [y, published], color=_PUBLISHED, linewidth=0.8, zorder=1)
            panel.plot(
                x, published, "o", markerfacecolor="white", color=_PUBLISHED, label="published"
            )
    free = [entry for entry in entries if cost(entry) <= 0]  # no place on a logarithmic axis
    for y in dict.fromkeys(round(entry.report.psnr, 2) for entry in free):
        panel.axhline(y, color=_FREE, linestyle="--", linewidth=1, label="no parameters")


def _tick(value: float, _position: float = 0) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _name(panel: Axes, entries: Sequence[Entry], cost: Callable[[Entry], float]) -> None:
    """Write the names of the models, each where it covers no other; the layout must be settled."""
    taken: list[Any] = []
    free: dict[float, list[str]] = {}
    for entry in entries:
        x, y = cost(entry), entry.report.psnr
        if x <= 0:
            free.setdefault(round(y, 2), []).append(entry.report.model)
            continue
        text = panel.annotate(
            entry.report.model, (x, y), (6, 4), textcoords="offset points", fontsize=8
        )
        for shift, side in _PLACES:
            text.set(position=shift, ha=side)
            box = text.get_window_extent()
            if not box.count_overlaps(taken):
                break
        taken.append(text.get_window_extent())
    for y, models in free.items():
        panel.annotate(
            ", ".join(models), (0.99, y), (0, 3), ("axes fraction", "data"), "offset points",
            ha="right", fontsize=8, color=_FREE,
        )  # fmt: skip


def _legend(panels: Any) -> tuple[list[Any], list[str]]:
    """One handle per kind of mark, whichever panel it is in."""
    marks = {
        label: handle
        for panel in panels.ravel()
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    labels = sorted(marks)
    return [marks[label] for label in labels], labels
