"""The pictures as files: they open, hold what they should, and are the same for the same scores."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from rayscale.evaluation import ImageScore, Report
from rayscale.evaluation.cost import Cost
from rayscale.evaluation.plots import over_parameters, over_seconds
from rayscale.evaluation.table import Entry


def entry(model, psnr, parameters, scale=2):
    report = Report(
        model, scale, "edsr-paper-y", [ImageScore("a", psnr, 0.9, parameters / 1e6 + 1, 1)]
    )
    return Entry(f"Set5/x{scale}", report, model, "", Cost(parameters, 0), "CPU, 1 thread")


SCORES = [entry("bicubic", 33.7, 0), entry("edsr", 37, 40_000_000), entry("vdsr", 36.9, 665_921)]


@pytest.mark.parametrize("draw", [over_parameters, over_seconds])
def test_a_picture_is_reproducible_and_grows_by_a_panel_per_scale(draw):
    one = draw(SCORES)
    assert one == draw(SCORES)
    assert one != draw([*SCORES[:2], entry("vdsr", 36.0, 665_921)])
    two = draw([*SCORES, entry("bicubic", 30.4, 0, scale=3)])
    width, height = Image.open(io.BytesIO(one)).size
    wider, same = Image.open(io.BytesIO(two)).size
    assert wider > 1.5 * width
    assert same == height


def test_names_cover_no_others(monkeypatch):
    """Four models at one point: each name stands at a place of its own."""
    from matplotlib.figure import Figure

    boxes = []
    save = Figure.savefig

    def keep(figure, *arguments, **options):
        boxes.extend(text.get_window_extent() for text in figure.axes[0].texts)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    over_parameters([entry(name, 37, 1000) for name in ("edsr", "edsr+", "mdsr", "mdsr+")])
    assert len(boxes) == 4
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)  # itself
