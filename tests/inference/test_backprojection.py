"""Back-projection: what is shrunk is the source, measured by Pillow's own bicubic, and windows equal the whole."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from scipy import ndimage

from rayscale.errors import UnsupportedError
from rayscale.imaging import Image, read_image, write_image
from rayscale.imaging.levels import Levels
from rayscale.imaging.missing import Missing
from rayscale.inference import Upscaler, backprojection
from rayscale.inference.backprojection import Residual, back_project, residual
from rayscale.inference.parts import Parts
from rayscale.models.systems import create_model
from rayscale.options import Options
from rayscale.resampling import downsample

pytestmark = pytest.mark.usefixtures("one_thread")


def scene(*shape: int, low: float = 20, high: float = 235, blur: float = 1.0) -> np.ndarray:
    """Noise with structures of a few pixels, from ``low`` to ``high``."""
    sigma = (blur, blur) + (0,) * (len(shape) - 2)
    noise = ndimage.gaussian_filter(np.random.default_rng(12).normal(size=shape), sigma)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return low + noise * (high - low)


def network(channels: int = 3, scale: int = 2):
    """An untrained network on top of bicubic: what it makes is far from consistent."""
    torch.manual_seed(3)
    model = create_model("edsr-baseline", scale=scale, channels=channels, filters=8, blocks=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 4:
                torch.nn.init.dirac_(parameter, groups=1)
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def shrunk_by_pillow(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``(H, W, C)``; Pillow's kernel is the same, but it cuts it off at the edge."""
    planes = [
        PIL.Image.fromarray(plane.astype(np.float32)).resize(
            size[::-1], PIL.Image.Resampling.BICUBIC
        )
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)


@pytest.mark.parametrize(
    ("model", "scale", "channels"),
    [("edsr", 2, 3), ("edsr", 3, 1), ("bicubic", 2.5, 5), ("bilinear", 1.5, 1), ("bilinear", 4, 2)],
)
def test_shrinking_the_result_gives_the_source(model, scale, channels):
    made = network(channels, int(scale)) if model == "edsr" else create_model(model)
    lr = scene(40, 60, channels).astype(np.uint8)
    before = Upscaler(made, Options(scale=scale, precision="float32")).run(Image(lr))
    after = Upscaler(made, Options(scale=scale, precision="float32", consistency=True)).run(
        Image(lr)
    )
    assert before.residual is None
    assert before.measures == {}
    inside = (slice(4, -4), slice(4, -4))
    worse, better = (
        np.abs(shrunk_by_pillow(result.image.pixels, lr.shape[:2]) - lr)[inside]
        for result in (before, after)
    )
    assert worse.max() > 1
    assert better.max() < 0.75
    assert better.mean() < 0.2 < worse.mean()
    assert np.abs(after.residual.maximum - better.max()) < 0.2  # the one has the edges, too
    assert after.measures == {"residual": after.residual.describe()}


def test_the_residual_is_that_of_the_stored_pixels():
    lr, sr = scene(10, 12, 2).astype(np.uint8), scene(20, 24, 2, blur=2).astype(np.uint8)
    shrunk = np.stack(
        [
            downsample(torch.from_numpy(sr[..., c].astype(float)), (10, 12), 2).numpy()
            for c in (0, 1)
        ],
        -1,
    )
    inside = shrunk_by_pillow(sr, (10, 12))[2:-2, 2:-2]
    np.testing.assert_allclose(shrunk[2:-2, 2:-2], inside, atol=1e-3)
    apart = np.abs(shrunk - lr)
    found = residual(sr, lr, 2)
    assert found.maximum == pytest.approx(apart.max())
    assert found.rms == pytest.approx(np.sqrt(np.square(apart).mean()))
    assert found.values == lr.size
    valid = np.zeros((10, 12, 1), bool)
    valid[3:5, 6] = True
    part = residual(sr, lr, 2, valid)
    assert part.values == 4
    assert part.maximum == pytest.approx(apart[3:5, 6].max())
    rest = residual(sr, lr, 2, ~valid)
    total = part + rest
    assert (total.maximum, total.values) == (found.maximum, found.values)
    assert total.rms == pytest.approx(found.rms)
    assert Residual().describe() == {"max": 0, "rms": 0}


LEVELS = Levels.of_type(np.dtype(np.uint16))
"""Of the whole, and so of each of its windows."""


def pieces(upscaler: Upscaler, pixels: np.ndarray, margin: int, step: int):
    """The image upscaled by windows of ``step`` columns with ``margin`` more on each side, and the sum of residuals."""
    out, total, scale = [], Residual(), upscaler.scale
    for start in range(0, pixels.shape[1], step):
        low = max(0, start - margin)
        window = pixels[:, low : start + step + margin]
        core = np.zeros((*window.shape[:2], 1), bool)
        core[:, start - low : start - low + step] = True
        run = upscaler.run(Image(window, levels=LEVELS), core)
        out.append(
            run.image.pixels[:, int((start - low) * scale) : int((start - low + step) * scale)]
        )
        total += run.residual
    return np.concatenate(out, axis=1), total


@pytest.mark.parametrize("scale", [2, 1.5])
def test_windows_equal_the_whole(scale):
    pixels = scene(9, 180, 1, low=0, high=65535, blur=0.7).astype(np.uint16)
    pixels[:, :60] = 777  # nothing to correct here: such a window ends early
    made = network(1) if scale == 2 else create_model("bilinear")
    upscaler = Upscaler(made, Options(scale=scale, precision="float32", consistency=True))
    run = upscaler.run(Image(pixels, levels=LEVELS))
    whole = run.image.pixels.astype(int)
    assert upscaler.frames.halo == made.halo(scale) + backprojection.HALO
    assert upscaler.frames.halo < 60
    joined, total = pieces(upscaler, pixels, upscaler.frames.halo, 20)
    apart = np.abs(joined - whole)
    assert apart.max() <= 1  # half a unit rounds either way
    assert np.count_nonzero(apart) < 0.01 * apart.size
    assert total.values == run.residual.values == pixels.size
    assert total.maximum == pytest.approx(run.residual.maximum, abs=0.2)
    assert total.rms == pytest.approx(run.residual.rms, rel=0.01)
    joined, total = pieces(upscaler, pixels, 4, 20)
    assert np.abs(joined - whole).max() > 5


def test_an_error_too_small_to_matter_is_left_alone_where_it_is():
    x = torch.from_numpy(scene(12, 30, 1)).permute(2, 0, 1)[None].float()
    y = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    tolerance = torch.full((1, 1, 1), 1000.0)
    torch.testing.assert_close(back_project(y, x, 2, tolerance), y, atol=0, rtol=0)
    exact = downsample(back_project(y, x, 2, torch.zeros(1, 1, 1)), (12, 30), 2)
    assert (exact - x).abs().max() < 0.1 * (downsample(y, (12, 30), 2) - x).abs().max()


def test_black_and_white_hold():
    """What clipping would take away is made up for by the neighbours, where they can."""
    lr = scene(30, 30, 1, low=-60, high=320, blur=1.5).clip(0, 255).astype(np.uint8)
    x = torch.from_numpy(lr.astype(np.float32)).permute(2, 0, 1)[None]
    y = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    zero, white = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 255.0)
    held = back_project(y, x, 2, zero, (zero, white)).clamp(0, 255)
    clipped = back_project(y, x, 2, zero).clamp(0, 255)
    assert (lr == 0).any()
    assert (lr == 255).any()
    kept, lost = (residual(z[0].permute(1, 2, 0).numpy(), lr, 2) for z in (held, clipped))
    assert kept.rms < 0.8 * lost.rms


@pytest.mark.parametrize("dtype", ["int16", "float32", "int32"])
def test_native_units_of_other_types_and_inverted_levels(dtype):
    lr = (scene(24, 24, 2) * 10 - 900).astype(dtype)
    levels = Levels((1500.0,), (-900.0,), "upside down", limits=(-1000, 4000))
    image = Image(lr, "geotiff", levels=levels)
    run = Upscaler(create_model("bilinear"), Options(scale=2, consistency=True)).run(image)
    assert run.image.pixels.dtype == lr.dtype
    assert run.residual.maximum < (1 if dtype.startswith("int") else 0.5)
    plain = Upscaler(create_model("bilinear"), Options(scale=2)).run(image).image.pixels
    assert residual(plain, lr, 2).maximum > 10


def test_missing_pixels_count_neither_here_nor_there():
    lr = scene(24, 24, 1).astype(np.float32)
    valid = np.ones_like(lr, bool)
    valid[10:13, 5:9] = False
    holed = np.where(valid, lr, np.float32(np.nan))
    image = Image(holed, "geotiff", levels=Levels((0.0,), (255.0,), "r"), missing=Missing(valid))
    run = Upscaler(create_model("bilinear"), Options(scale=2, consistency=True)).run(image)
    hole = ~valid.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(np.isnan(run.image.pixels), hole)
    assert run.residual.values == valid.sum()
    assert run.residual.maximum < 0.5
    empty = Image(holed, "geotiff", levels=image.levels, missing=Missing(np.zeros_like(valid)))
    assert (
        Upscaler(create_model("bilinear"), Options(scale=2, consistency=True)).run(empty).residual
        == Residual()
    )


def test_slices_of_a_volume_are_corrected_one_by_one():
    volume = scene(3, 20, 22, 1, blur=0.8).astype(np.uint16)
    upscaler = Upscaler(create_model("bilinear"), Options(scale=2, consistency=True))
    run = upscaler.run(Image(volume, "nifti"))
    total = Residual()
    for pixels, expected in zip(run.image.pixels, volume, strict=True):
        alone = upscaler.run(Image(expected))
        np.testing.assert_array_equal(pixels, alone.image.pixels)
        total += alone.residual
    assert run.residual == total


def test_the_residual_is_that_of_the_file():
    lr = scene(40, 60, 3).astype(np.uint8)
    lossy = Image(lr, "webp", encoding={"lossless": False})
    result = Upscaler(create_model("bicubic"), Options(scale=2, consistency=True)).run(lossy)
    stored = read_image(write_image(result.image))
    assert residual(stored.pixels, lr, 2) == result.residual


def test_the_residual_knows_what_stepped_aside_for_reserved_values():
    lr = np.zeros((24, 24, 1), np.int16)
    lr[:, 12:] = 900
    levels = Levels((-1024.0,), (3071.0,), "r")
    missing = Missing(
        np.ones((24, 24, 1), bool), (-2000, -1)
    )  # beside the edge values would lie there
    image = Image(lr, "dicom", levels=levels, missing=missing)
    result = Upscaler(create_model("bicubic"), Options(scale=2, consistency=True)).run(image)
    assert result.image.pixels.min() >= 0
    assert residual(result.image.pixels, lr, 2) == result.residual
    assert result.residual.maximum > 5


def test_jpeg_would_lose_the_correction(monkeypatch):
    upscaler = Upscaler(create_model("bicubic"), Options(scale=2, consistency=True))
    monkeypatch.setattr(Parts, "run", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(UnsupportedError, match=r"ends in \.png"):
        upscaler.run(Image(scene(20, 20, 3).astype(np.uint8), "jpeg"))


def test_what_determines_the_output_names_it():
    described = Upscaler(create_model("bicubic"), Options(scale=2, consistency=True)).describe()
    assert described["consistency"] == "10 back-projections"
    assert "consistency" not in Upscaler(create_model("bicubic"), Options(scale=2)).describe()
