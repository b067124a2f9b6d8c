"""``rayscale evaluate``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from rayscale.resampling import degrade


def test_evaluate_json_has_the_fixed_form(rayscale, shared_data):
    folder = shared_data / "benchmarks" / "Set5" / "x2"
    code, out, _ = rayscale(
        "evaluate", "--model", "bicubic", "--data", folder, "--scale", 2, "--json"
    )
    report = json.loads(out)
    assert code == 0
    assert (report["model"], report["scale"]) == ("bicubic", 2)
    assert "edsr-paper" in report["protocol"]
    assert report["psnr"] == pytest.approx(33.66, abs=0.02)
    assert report["ssim"] == pytest.approx(0.9299, abs=0.001)
    assert len(report["images"]) == 5
    assert set(report["images"][0]) >= {"name", "psnr", "ssim"}


def test_a_picture_that_comes_out_exactly_leaves_the_json_valid(rayscale, tmp_path):
    """A flat one, as any of the sea or of the sky may be: PSNR is infinite, which JSON cannot say."""
    for kind, side in (("HR", 64), ("LR", 32)):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (side, side), (9, 9, 9)).save(tmp_path / kind / f"a_{kind}.png")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    for suite in (None, "medical", "satellite"):
        options = ["--suite", suite] if suite else []
        code, out, _ = rayscale("evaluate", "-m", "nearest", "--data", tmp_path, *options, "--json")
        assert code == 0
        report = json.loads(out, parse_constant=refuse)
        for values in (report, report["images"][0]):
            assert (values["psnr"], values["psnr_is"], values["ssim"]) == (None, "Infinity", 1)


def test_evaluate_adds_a_suite_and_shows_what_was_published(rayscale, photo):
    folder = photo.parent / "Set5" / "x2"
    for kind, pixels in (
        ("HR", np.asarray(Image.open(photo))),
        ("LR", degrade(np.asarray(Image.open(photo)), 2)),
    ):
        (folder / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / kind / f"a_{kind}.png")
    code, out, _ = rayscale(
        "evaluate", "-m", "bicubic", "--data", folder, "--suite", "medical", "--json"
    )
    report = json.loads(out)
    assert code == 0
    assert report["nrmse"] == report["images"][0]["nrmse"] > 0
    assert {"frc", "reflectance", "spatial"} <= report.keys()
    _, out, _ = rayscale("evaluate", "-m", "bicubic", "--data", folder)
    assert "published" in out
    assert "33.66" in out
    assert "NRMSE" not in out
    _, out, _ = rayscale("evaluate", "-m", "bicubic", "--data", folder, "--suite", "medical")
    assert "NRMSE" in out
    code, _, err = rayscale("evaluate", "--data", folder, "--suite", "maps")
    assert code == 2
    assert "satellite, medical" in err
