from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image as PillowImage

from rayscale.errors import ConfigError, InputError, NotFoundError
from rayscale.evaluation import check_scales, evaluate, list_pairs, read_pairs
from rayscale.imaging.metrics import EDSR_PAPER, RGB
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.options import Options
from rayscale.resampling import degrade

# Published in Table 3 of the EDSR paper (PSNR dB, SSIM; Y channel, shave = scale).
PUBLISHED_BICUBIC = {
    ("Set5", 2): (33.66, 0.9299),
    ("Set5", 3): (30.39, 0.8682),
    ("Set5", 4): (28.42, 0.8104),
    ("Set14", 2): (30.24, 0.8688),
    ("Set14", 3): (27.55, 0.7742),
    ("Set14", 4): (26.00, 0.7027),
}


@pytest.mark.parametrize(("benchmark", "scale"), PUBLISHED_BICUBIC)
def test_bicubic_reproduces_the_published_figures(shared_data, benchmark, scale):
    folder = shared_data / "benchmarks" / benchmark / f"x{scale}"
    report = evaluate(
        Upscaler(create_model("bicubic", scale=scale), Options(scale=scale)),
        read_pairs(str(folder), scale),
    )
    psnr, ssim = PUBLISHED_BICUBIC[benchmark, scale]
    assert report.protocol == "edsr-paper-y"
    assert report.psnr == pytest.approx(psnr, abs=0.02)
    assert report.ssim == pytest.approx(ssim, abs=0.001)


@pytest.fixture
def benchmark_folder(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("HR", "LR"):
        (tmp_path / kind).mkdir()
    for name, channels in (("colour", 3), ("grey", 1)):
        hr = rng.integers(0, 256, (24, 30, channels), dtype=np.uint8)
        for kind, pixels in (("HR", hr), ("LR", degrade(hr, 2))):
            PillowImage.fromarray(pixels.squeeze()).save(tmp_path / kind / f"{name}_{kind}.png")
    return tmp_path


def test_a_grey_image_is_measured_as_grey_under_a_colour_model(benchmark_folder):
    pairs = [pair for pair in read_pairs(str(benchmark_folder), 2) if pair.name == "grey"]
    colour = evaluate(
        Upscaler(create_model("bicubic", scale=2, channels=3), Options(scale=2)),
        pairs,
    )
    grey = evaluate(
        Upscaler(create_model("bicubic", scale=2, channels=1), Options(scale=2)),
        pairs,
    )
    assert colour.psnr == pytest.approx(grey.psnr, abs=1e-9)


def test_the_report_names_its_protocol_and_every_image(benchmark_folder):
    upscaler = Upscaler(create_model("bicubic", scale=2), Options(scale=2, ensemble=True))
    report = evaluate(
        upscaler, read_pairs(str(benchmark_folder), 2), name="mine", protocol=RGB
    ).to_dict()
    assert report["model"] == "mine+"
    assert report["protocol"] == "rgb"
    assert [image["name"] for image in report["images"]] == ["colour", "grey"]
    assert report["psnr"] == pytest.approx(np.mean([image["psnr"] for image in report["images"]]))


def test_a_benchmark_is_known_by_its_images_scale_and_protocol(benchmark_folder, tmp_path):
    def identity(folder, protocol=RGB, scale=2):
        network = create_model("bicubic", scale=scale)
        return evaluate(
            Upscaler(network, Options(scale=scale)), read_pairs(folder, scale), protocol=protocol
        )

    first = identity(benchmark_folder)
    assert first.to_dict()["benchmark"] == first.benchmark
    assert identity(benchmark_folder, EDSR_PAPER).benchmark != first.benchmark
    moved = shutil.copytree(benchmark_folder, tmp_path / "moved")
    for kind in ("HR", "LR"):  # the other way round
        (moved / kind / f"grey_{kind}.png").rename(moved / kind / f"a_{kind}.png")
    assert identity(moved).benchmark == first.benchmark
    for kind in ("HR", "LR"):
        (moved / kind / f"a_{kind}.png").unlink()
    assert identity(moved).benchmark != first.benchmark
    for kind in ("HR", "LR"):
        shutil.copy(benchmark_folder / kind / f"grey_{kind}.png", moved / kind / f"grey_{kind}.png")
    assert identity(moved).benchmark == first.benchmark
    pixels = np.asarray(PillowImage.open(moved / "LR" / "grey_LR.png")).copy()
    pixels[0, 0] ^= 1
    PillowImage.fromarray(pixels).save(moved / "LR" / "grey_LR.png")
    assert identity(moved).benchmark != first.benchmark


def test_the_first_use_of_a_network_is_before_the_clock(benchmark_folder, monkeypatch):
    sides = []
    upscaler = Upscaler(create_model("bicubic", scale=2), Options(scale=2))
    compute = upscaler.upscale_pixels
    monkeypatch.setattr(
        upscaler, "upscale_pixels", lambda pixels: sides.append(pixels.shape) or compute(pixels)
    )
    report = evaluate(upscaler, read_pairs(benchmark_folder, 2))
    assert len(report.images) == 2
    assert sides[0] == (12, 15, 3)


def test_mismatches_are_named(benchmark_folder):
    with pytest.raises(InputError, match="is the scale right"):
        list(read_pairs(str(benchmark_folder), 3))
    (benchmark_folder / "LR" / "grey_LR.png").unlink()
    with pytest.raises(NotFoundError, match="grey"):
        list(read_pairs(str(benchmark_folder), 2))
    with pytest.raises(NotFoundError, match="HR/"):
        list(read_pairs(str(benchmark_folder / "nowhere"), 2))


def save(folder, **pictures):
    folder.mkdir(parents=True)
    for name, pixels in pictures.items():
        PillowImage.fromarray(pixels).save(folder / f"{name}.png")


@pytest.fixture
def hr():
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def test_a_benchmark_may_have_the_layout_of_edsr_pytorch(tmp_path, hr):
    """Two scales below one address, names that tell the scale, and what operating systems leave behind."""
    save(tmp_path / "HR", a=hr, **{"._a": hr})
    save(tmp_path / "__MACOSX" / "HR", b=hr)
    (tmp_path / "HR" / "Thumbs.db").write_bytes(b"x")
    for scale in (2, 4):
        save(tmp_path / "LR_bicubic" / f"X{scale}", **{f"ax{scale}": degrade(hr, scale)})
    for scale in (2, 4):
        assert list_pairs(tmp_path, scale) == ["a"]
        (pair,) = read_pairs(tmp_path, scale)
        assert np.array_equal(pair.lr.pixels, degrade(hr, scale))
        assert np.array_equal(pair.hr.pixels, hr)
    with pytest.raises(NotFoundError, match="has pairs of x2, x4, none of x3"):
        list(read_pairs(tmp_path, 3))
    check_scales(str(tmp_path), [2, 4])
    check_scales(str(tmp_path), [3])  # what is wrong with it, reading says
    check_scales("nowhere/x{scale}", [2, 3])
    for scales in ([2, 3], [2, 4, 2.5]):
        with pytest.raises(ConfigError, match=r"does not have the scales x2, .*x\{scale\}"):
            check_scales(str(tmp_path), scales)


def test_hr_is_cropped_to_a_multiple(tmp_path, hr, caplog):
    save(tmp_path / "HR", a=hr)
    save(tmp_path / "LR", a=degrade(hr, 3))
    (pair,) = read_pairs(tmp_path, 3)
    assert np.array_equal(pair.hr.pixels, hr[:39, :48])
    assert not caplog.records


def test_lr_that_shows_something_else_is_told(tmp_path, hr, caplog):
    save(tmp_path / "HR", a=hr, b=hr)
    save(tmp_path / "LR", a=degrade(hr, 2)[::-1], b=degrade(hr, 2))
    assert len(list(read_pairs(tmp_path, 2))) == 2
    (record,) = caplog.records
    assert "a: the LR image does not show what its HR image shows" in record.getMessage()


@pytest.mark.parametrize(("name", "scale"), [("edsrlayout", 2), ("div2knames", 2), ("val3odd", 3)])
def test_sets_of_the_field(shared_data, name, scale, caplog):
    pairs = list(read_pairs(shared_data / "faults" / name, scale))
    assert [pair.name for pair in pairs] == ["a", "b"]
    for pair in pairs:
        assert pair.hr.pixels.shape[:2] == tuple(scale * n for n in pair.lr.pixels.shape[:2])
        assert np.array_equal(degrade(pair.hr.pixels, scale), pair.lr.pixels)
    assert not caplog.records


def test_a_fractional_scale_cuts_what_is_less_than_a_pixel(tmp_path):
    rng = np.random.default_rng(0)
    for kind, size in (("LR", (21, 33, 3)), ("HR", (52, 82, 3))):
        (tmp_path / kind).mkdir()
        pixels = rng.integers(0, 256, size, dtype=np.uint8)
        PillowImage.fromarray(pixels).save(tmp_path / kind / "a.png")
    report = evaluate(
        Upscaler(create_model("bicubic"), Options(scale=2.5)),
        read_pairs(str(tmp_path), 2.5),
    )
    assert (report.scale, len(report.images)) == (2.5, 1)
    with pytest.raises(InputError, match=r"x2\.6 makes 85x54"):
        list(read_pairs(str(tmp_path), 2.6))
