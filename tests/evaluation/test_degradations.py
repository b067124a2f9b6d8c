"""Figures belong to a degradation, as they belong to a protocol."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rayscale.cli.app import app
from rayscale.degradations import Degradation
from rayscale.errors import ConfigError, NotFoundError
from rayscale.evaluation import Report, evaluate, list_pairs, read_pairs
from rayscale.evaluation.comparison import Comparison
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.options import Options


def score(folder: Path | str, text: str | None, names: list[str] | None = None) -> Report:
    degradation = None if text is None else Degradation.parse(text)
    upscaler = Upscaler(create_model("bicubic", scale=2), Options(scale=2))
    return evaluate(upscaler, read_pairs(folder, 2, names, degradation))


def test_bicubic_of_hr_gives_the_figures_of_the_benchmark(benchmark: str) -> None:
    folder = benchmark.replace("{scale}", "2")
    stored, made = score(folder, None), score(folder, "bicubic")
    assert stored.degradation == "stored"
    assert made.degradation == "bicubic"
    assert [i.psnr for i in stored.images] == [i.psnr for i in made.images]
    assert stored.is_of_the_benchmark
    assert made.is_of_the_benchmark


def test_another_degradation_is_another_benchmark(benchmark: str) -> None:
    folder = benchmark.replace("{scale}", "2")
    reports = [score(folder, text) for text in (None, "mtf:gain=0.2", "kspace", "blur_noise_jpeg")]
    assert len({report.benchmark for report in reports}) == 4
    assert len({report.psnr for report in reports}) == 4
    assert reports[1].to_dict()["degradation"] == "mtf:gain=0.2"
    assert not reports[1].is_of_the_benchmark


def test_what_is_drawn_depends_on_the_name_alone(benchmark: str) -> None:
    """So that some images of a set, scored elsewhere, have the figures they have in the whole."""
    folder = benchmark.replace("{scale}", "2")
    whole = score(folder, "blur_noise_jpeg")
    (one,) = score(folder, "blur_noise_jpeg", ["lake"]).images
    assert next(image for image in whole.images if image.name == "lake").psnr == one.psnr


def test_a_folder_of_images_will_do(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (41, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    degradation = Degradation.parse("mtf:gain=0.3")
    assert list_pairs(tmp_path, 2, degradation) == ["a.png"]
    (pair,) = read_pairs(tmp_path, 2, degradation=degradation)
    assert np.array_equal(pair.lr.pixels, degradation.apply(pixels, 2))
    assert np.array_equal(pair.hr.pixels, pixels[:40])
    with pytest.raises(NotFoundError):
        list(read_pairs(tmp_path, 2))
    with pytest.raises(ConfigError, match="whole scales"):
        list(read_pairs(tmp_path, 2.5, degradation=degradation))


def test_the_command_names_it(benchmark: str) -> None:
    folder = benchmark.replace("{scale}", "2")
    words = ["evaluate", "-m", "bicubic", "--data", folder, "-s", "2", "--degradation", "kspace"]
    told = CliRunner().invoke(app, [*words, "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["degradation"] == "kspace"
    table = CliRunner().invoke(app, words)
    assert "degradation: kspace" in table.output


def test_the_command_degrades_as_datasets_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for text in ("mtf:gain=0.3", "kspace", "blur_noise_jpeg"):
        words = ["degrade", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--degradation", text]
        made = []
        for _ in range(2):
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, done.output
            made.append(np.asarray(Image.open(tmp_path / "b.png")))
            (tmp_path / "b.png").unlink()
        assert np.array_equal(*made)
        if text != "blur_noise_jpeg":
            assert np.array_equal(made[0], Degradation.parse(text).apply(pixels, 2))


def test_an_unknown_one_is_an_error_before_any_work() -> None:
    with pytest.raises(ConfigError, match="there are bicubic, mtf"):
        _ = Comparison(["bicubic"], ["x"], [2], False, "rgb", None, "cpu", "blur").how
