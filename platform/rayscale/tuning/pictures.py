"""The trials of a sweep as a table and as pictures: which settings matter, and where they are good."""

from __future__ import annotations

import csv
import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayscale.storage import connect
from rayscale.tuning.samplers import add_trials
from rayscale.tuning.spaces import Parameter
from rayscale.tuning.sweep import Sweep

Row = Mapping[str, Any]

_FAILED, _LINE = "#c44e52", "#1f5fa8"
_MOST_ROWS = 40  # of the table's picture
_LEAST = 4  # trials with a figure that importance and a surface need


def keep(sweep: Sweep, rows: Sequence[Row]) -> str:
    """Write ``trials.csv`` and the pictures beside the trials, and into the sweep's MLflow run; gives the place."""
    store = connect(sweep.uri)
    files = draw_all(sweep, rows)
    for name, content in files.items():
        store.write(name, content)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        from rayscale.registry.tracking import add_files

        add_files(sweep.base.logging.experiment, sweep.name, files)
    return store.uri


def draw_all(sweep: Sweep, rows: Sequence[Row]) -> dict[str, bytes]:
    """The files by name; importance and surface only where there are trials enough."""
    cells = cells_of(sweep, rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [[*line, row["error"] if row else "error"] for line, row in zip(cells, [None, *rows], strict=True)]
    )  # fmt: skip
    files = {"trials.csv": text.getvalue().encode(), "trials.png": _table(sweep, cells)}
    files["parallel.png"] = _parallel(sweep, rows)
    shares = importance(sweep, rows)
    if shares:
        files["importance.png"] = _bars(sweep, shares)
    if surface := _surface(sweep, rows, shares):
        files["surface.png"] = surface
    return files


def cells_of(sweep: Sweep, rows: Sequence[Row]) -> list[list[str]]:
    """The table as texts, its header first."""
    names = [parameter.key for parameter in sweep.space]
    figures = [key for key in ("step", "loss", "psnr", "ssim") if any(key in row for row in rows)]
    lines = [[*names, *figures, "status"]]
    for row in rows:
        cells = [_text(row["values"].get(name, "")) for name in names]
        cells += [f"{row[key]:.4g}" if key in row else "" for key in figures]
        state = "stopped early" if row["state"] == "stopped" else row["state"]
        lines.append([*cells, "failed" if row["error"] else state])
    return lines


def importance(sweep: Sweep, rows: Sequence[Row]) -> dict[str, float]:
    """The share of each parameter in the variance of the figures (fANOVA, Hutter et al. 2014), the largest first.

    Of parameters that every trial has. Empty where there are too few trials, or all have the same figure.
    """
    import optuna

    figures = [(dict(row["values"]), _figure(sweep, row)) for row in rows]
    found = [figure for _, figure in figures if figure is not None]
    if len(found) < _LEAST or max(found) == min(found):
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(direction="maximize" if sweep.mode == "max" else "minimize")
        add_trials(study, sweep.space, figures, sweep.mode)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=sweep.seed)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in shares.items()}


def _figure(sweep: Sweep, row: Row) -> float | None:
    return None if row["error"] else float(row[sweep.metric])


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _place(parameter: Parameter, value: Any) -> float:
    """Where a value stands between 0 and 1 on the axis of its parameter."""
    if value is None:
        return math.nan
    if parameter.kind == "choice":
        return parameter.choices.index(value) / max(1, len(parameter.choices) - 1)
    low, high = parameter.low, parameter.high
    if parameter.kind == "log":
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def _ticks(parameter: Parameter) -> list[tuple[float, str]]:
    if parameter.kind == "choice":
        return [(_place(parameter, choice), _text(choice)) for choice in parameter.choices]
    middle = (parameter.low + parameter.high) / 2
    if parameter.kind == "log":
        middle = math.sqrt(parameter.low * parameter.high)
    return [
        (_place(parameter, value), f"{value:.3g}")
        for value in (parameter.low, middle, parameter.high)
    ]


def _start(sweep: Sweep, width: float, height: float) -> tuple[Any, Any]:
    # The object-oriented interface: no global state, no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(sweep.name, fontsize=9, loc="left")
    return figure, axes


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    # Without the version of matplotlib, so that equal trials make equal files.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _table(sweep: Sweep, cells: list[list[str]]) -> bytes:
    shown = cells[: _MOST_ROWS + 1]
    figure, axes = _start(sweep, 1.5 * len(cells[0]), 0.6 + 0.2 * len(shown))
    axes.set_axis_off()
    table = axes.table(cellText=shown[1:], colLabels=shown[0], loc="upper center", edges="horizontal")  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    return _png(figure)


def _bars(sweep: Sweep, shares: Mapping[str, float]) -> bytes:
    figure, axes = _start(sweep, 6.0, 1.2 + 0.4 * len(shares))
    names = list(shares)[::-1]
    axes.barh(names, [shares[name] for name in names], color=_LINE)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"share in the variance of the {sweep.metric}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return _png(figure)


def _parallel(sweep: Sweep, rows: Sequence[Row]) -> bytes:
    """A line per trial through its values to its figure; those that failed are broken lines to none."""
    from matplotlib import colormaps

    figure, axes = _start(sweep, 2.4 + 1.8 * len(sweep.space), 4.0)
    found = [value for row in rows if (value := _figure(sweep, row)) is not None]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    span = (high - low) or 1.0
    for row in reversed(rows):  # the best are drawn last
        heights = [_place(each, row["values"].get(each.key)) for each in sweep.space]
        value = _figure(sweep, row)
        if value is None:
            axes.plot(heights, color=_FAILED, linestyle=":", linewidth=1.2)
            continue
        share = (value - low) / span
        quality = share if sweep.mode == "max" else 1 - share
        axes.plot([*heights, share], color=colormaps["viridis"](quality), linewidth=1.4)
    for index, parameter in enumerate(sweep.space):
        axes.axvline(index, color="black", linewidth=0.8)
        for height, text in _ticks(parameter):
            axes.text(index - 0.03, height, text, ha="right", va="center", fontsize=7)
    last = len(sweep.space)
    axes.axvline(last, color="black", linewidth=0.8)
    for height, value in ((0.0, low), (1.0, high)):
        axes.text(last + 0.03, height, f"{value:.4g}", ha="left", va="center", fontsize=7)
    names = [parameter.key for parameter in sweep.space]
    axes.set_xticks(range(last + 1), [*names, sweep.metric], fontsize=8)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.margins(x=0.12)
    return _png(figure)


def _surface(sweep: Sweep, rows: Sequence[Row], shares: Mapping[str, float]) -> bytes | None:
    """The figure over the two parameters that matter most, trials as points; crosses failed. Over the only one, a curve."""
    keys = sorted((p.key for p in sweep.space if p.condition is None), key=lambda key: -shares.get(key, 0.0))[:2]  # fmt: skip
    chosen = [parameter for parameter in sweep.space if parameter.key in keys]
    scored = [row for row in rows if not row["error"]]
    if len(scored) < _LEAST or not chosen:
        return None
    figure, axes = _start(sweep, 6.0, 4.6)
    points = np.array([[_place(p, row["values"][p.key]) for p in chosen] for row in scored])
    failed = np.array([[_place(p, row["values"][p.key]) for p in chosen] for row in rows if row["error"]])  # fmt: skip
    values = np.array([row[sweep.metric] for row in scored])
    if len(chosen) == 1:
        order = points[:, 0].argsort()
        axes.plot(points[order, 0], values[order], "o-", color=_LINE, markersize=4)
        for place in failed[:, 0] if len(failed) else ():
            axes.axvline(place, color=_FAILED, linestyle=":")
        axes.set_ylabel(sweep.metric, fontsize=9)
    else:
        _fill(figure, axes, points, values, sweep)
        if len(failed):
            axes.plot(*failed.T, "x", color=_FAILED, markersize=8, markeredgewidth=2, label="failed")  # fmt: skip
            axes.legend(loc="best", fontsize=8)
        axes.set_yticks(*zip(*_ticks(chosen[1]), strict=True), fontsize=8)
        axes.set_ylabel(chosen[1].key, fontsize=9)
        axes.set_ylim(-0.04, 1.04)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xticks(*zip(*_ticks(chosen[0]), strict=True), fontsize=8)
    axes.set_xlabel(chosen[0].key, fontsize=9)
    return _png(figure)


def _fill(figure: Any, axes: Any, points: Any, values: Any, sweep: Sweep) -> None:
    """Contours between the points where they span an area, and the points."""
    colours = "viridis" if sweep.mode == "max" else "viridis_r"
    # A diverged trial would take all colours: those beyond three times the better half are the last colour.
    low, middle, high = np.quantile(values, [0.0, 0.5, 1.0])
    if sweep.mode == "max":
        low = max(low, middle - 3 * max(high - middle, 1e-9))
    else:
        high = min(high, middle + 3 * max(middle - low, 1e-9))
    limits = {"vmin": low, "vmax": high, "cmap": colours}
    if np.linalg.matrix_rank(points - points[0], tol=1e-6) == 2 and high > low:
        clipped = np.clip(values, low, high)
        axes.tricontourf(*points.T, clipped, levels=np.linspace(low, high, 12), cmap=colours, alpha=0.7)  # fmt: skip
    dots = axes.scatter(*points.T, c=values, edgecolors="black", linewidths=0.6, zorder=3, **limits)
    figure.colorbar(dots, ax=axes, label=sweep.metric)
