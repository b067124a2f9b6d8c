"""The table on made-up scores: marks, published figures, costs; and on real ones of a tiny benchmark, in JSON."""

from __future__ import annotations

import json
import math

import pytest

from rayscale.evaluation import SUITES, ImageScore, Report, evaluate, read_pairs
from rayscale.evaluation.cost import Cost, count
from rayscale.evaluation.table import Entry, to_json, to_markdown
from rayscale.imaging.metrics import RGB
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.options import Options


def entry(model, psnr, ssim, *, scale=2, protocol="edsr-paper-y", measures=()):
    """Two images, 1.5 s for half a megapixel."""
    measures = dict(measures)
    images = [
        ImageScore("a", psnr - 1, ssim, 0.5, 0.25, measures),
        ImageScore("b", psnr + 1, ssim, 1, 0.25, measures),
    ]
    report = Report(model, scale, protocol, images)
    cost = Cost(1_369_859, 89_955_237_888)
    return Entry(
        f"s3://sets/Set5/x{scale}", report, model, "0123456789abcdef", cost, "CPU, 1 thread"
    )


def test_the_markdown_is_the_papers_table():
    entries = [
        entry("bicubic", 33.66, 0.93),
        entry("edsr", 37.5, 0.95),
        entry("mine", 36, 0.93),
        entry("bicubic", 28.4, 0.81, scale=4),
    ]
    assert to_markdown(entries).startswith(
        """\
| set  | scale |                           bicubic |                                    edsr |               mine |
| :--- | ----: | --------------------------------: | --------------------------------------: | -----------------: |
| Set5 |    x2 | 33.66 / _0.9300_ (33.66 / 0.9299) | **37.50** / **0.9500** (38.11 / 0.9601) | _36.00_ / _0.9300_ |
| Set5 |    x4 |   28.40 / 0.8100 (28.42 / 0.8104) |                                       - |                  - |

PSNR in dB / SSIM, means over the images; **best**, _second best_.
In brackets what was published: Lim et al. 2017 (EDSR), Table 3.
Protocol `edsr-paper-y`: BT.601 Y, shave = scale: Set5, Set14, B100 and Urban100 in the EDSR paper.
"""
    )


def test_costs_stand_below():
    text = to_markdown([entry("mine", 30, 0.9), entry("mine", 28, 0.8, scale=3)])
    rows = [line for line in text.splitlines() if line.startswith("| mine")]
    assert [row.split("|")[2:-1] for row in rows] == [
        [f"    {scale} ", "  1,369,859 ", " 90.0 ", "             3 ", " 0123456789ab "]
        for scale in ("x2", "x3")
    ]
    assert "256 x 256" in text
    assert "CPU, 1 thread" in text


def test_values_that_look_equal_share_their_rank():
    text = to_markdown([entry("a", 30.001, 0.9), entry("b", 29.999, 0.8), entry("c", 29, 0.7)])
    assert "| **30.00** / **0.9000** | **30.00** / _0.8000_ | _29.00_ / 0.7000 |" in text


def test_alone_nothing_is_best():
    assert "*" not in to_markdown([entry("a", 30, 0.9)]).splitlines()[2]


def test_measures_of_a_suite_have_a_table_and_the_better_way():
    text = to_markdown(
        [
            entry("a", 30, 0.9, measures={"cpsnr": 40, "sam": 1.5}),
            entry("b", 31, 0.9, measures={"cpsnr": 41, "sam": 1.6}),
        ]
    )
    cells = [line.replace(" ", "") for line in text.splitlines()]
    assert "|set|scale|model|cPSNRdB↑|SAMdeg↓|" in cells
    assert "|Set5|x2|a|_40.00_|**1.500**|" in cells
    assert "|Set5|x2|b|**41.00**|_1.600_|" in cells


def test_json_knows_no_infinity():
    score = ImageScore("a", math.inf, 1.0, 0.5, 0.25, {"sam": math.nan})
    report = Report("m", 2, "rgb", [score])
    spec = create_model("nearest").spec
    text = to_json([Entry("Set5/x2", report, "nearest", "none", count(spec, 2), "CPU")])
    assert "Infinity," not in text
    (row,) = json.loads(text, parse_constant=pytest.fail)
    assert (row["psnr"], row["psnr_is"], row["sam_is"]) == (None, "Infinity", "NaN")


def test_json_of_a_real_evaluation(benchmark):
    entries = []
    for scale in (2, 3):
        data = benchmark.format(scale=scale)
        for system in ("bilinear", "bicubic", "edsr-baseline"):
            size = {} if system.startswith("bi") else {"blocks": 1, "filters": 4}
            model = create_model(system, scale=scale, **size)
            report = evaluate(
                Upscaler(model, Options(scale=scale), device="cpu"),
                read_pairs(data, scale),
                protocol=RGB,
                suite=SUITES["medical"],
            )
            entries.append(Entry(data, report, system, "digest", count(model.spec, scale), "CPU"))
    rows = json.loads(to_json(entries))
    assert [(row["set"], row["scale"], row["model"]) for row in rows[:4]] == [
        ("Set5", 2, "bilinear"),
        ("Set5", 2, "bicubic"),
        ("Set5", 2, "edsr-baseline"),
        ("Set5", 3, "bilinear"),
    ]
    assert rows[0]["psnr"] < rows[1]["psnr"]
    assert rows[1]["published"] is None  # nobody reports bicubic in RGB there
    assert rows[2]["published"] == {"psnr": 35.78, "ssim": 0.9442, "source": "BasicSR, model zoo"}
    for row in rows:
        assert row["protocol"] == "rgb"
        assert row["seconds_per_megapixel"] == pytest.approx(
            row["seconds"] / sum(image["megapixels"] for image in row["images"])
        )
        assert row["nrmse"] == pytest.approx(sum(i["nrmse"] for i in row["images"]) / 3)
        assert [image["name"] for image in row["images"]] == ["barn", "lake", "mill"]
    assert to_markdown(entries).count("| Set5 |") == 2 + 6
