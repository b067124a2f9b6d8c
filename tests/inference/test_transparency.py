"""What lies hidden under transparent pixels: it must not show in their neighbours, and it stays where it is."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from rayscale.imaging import Image, read_image, write_image
from rayscale.inference import Upscaler
from rayscale.inference.packs import upscale_pack
from rayscale.models.builtin import open_builtin
from rayscale.models.systems import create_model
from rayscale.options import Options
from rayscale.resampling import nearest

SIZE = 48


def disc(dtype: type, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """A plain disc with a soft rim on transparent pixels of other colours: black above, noise below."""
    peak = np.iinfo(dtype).max
    y, x = np.mgrid[:SIZE, :SIZE]
    alpha = (np.clip(15.5 - np.hypot(y - 23.5, x - 23.5), 0, 1) * peak).astype(dtype)
    pixels = np.zeros((SIZE, SIZE, channels), dtype)
    pixels[SIZE // 2 :] = np.random.default_rng(1).integers(0, peak, (SIZE // 2, SIZE, channels))
    pixels[alpha > 0] = colour(dtype, channels)
    return pixels, alpha


def colour(dtype: type, channels: int) -> np.ndarray:
    return (np.array([0.8, 0.5, 0.3])[:channels] * np.iinfo(dtype).max).astype(dtype)


def stored(container: str, pixels: np.ndarray, alpha: np.ndarray) -> bytes:
    """A file made by another library where one can."""
    out = io.BytesIO()
    planes = np.dstack([pixels, alpha])
    if container == "tiff":
        photometric = "minisblack" if pixels.shape[2] == 1 else "rgb"
        tifffile.imwrite(out, planes, photometric=photometric, planarconfig="contig", extrasamples=["unassalpha"])  # fmt: skip
    elif container == "webp":
        Pillow.fromarray(planes).save(out, "WEBP", lossless=True, exact=True)
    elif planes.dtype == np.uint8:
        Pillow.fromarray(planes).save(out, "PNG")
    else:
        return write_image(Image(pixels, "png", alpha=alpha))
    return out.getvalue()


@pytest.fixture(scope="module")
def bicubic() -> Upscaler:
    return Upscaler(create_model("bicubic"), Options(scale=2))


FILES = [("png", np.uint8, 3), ("png", np.uint8, 1), ("png", np.uint16, 3), ("png", np.uint16, 1),
         ("tiff", np.uint8, 3), ("tiff", np.uint8, 1), ("tiff", np.uint16, 3), ("webp", np.uint8, 3)]  # fmt: skip


@pytest.mark.parametrize("many", [False, True], ids=["alone", "packed"])
@pytest.mark.parametrize(("container", "dtype", "channels"), FILES)
def test_hidden_colours_do_not_show(bicubic, container, dtype, channels, many):
    source = read_image(stored(container, *disc(dtype, channels)))
    larger = upscale_pack(bicubic, [source, source])[1] if many else bicubic.upscale(source)
    larger = read_image(write_image(larger))
    assert larger.alpha is not None
    visible = larger.alpha > 0
    assert 2500 < visible.sum() < 4000
    # Bicubic of one colour is that colour, up to rounding.
    apart = np.abs(larger.pixels[visible].astype(int) - colour(dtype, channels))
    assert apart.max() <= 1
    hidden = nearest(source.pixels, 2)[~visible]
    np.testing.assert_array_equal(larger.pixels[~visible], hidden)


def test_neither_do_they_through_a_network():
    """EDSR sees far around a pixel; where every hidden colour is that of the disc, it must do the very same."""
    pixels, alpha = disc(np.uint8, 3)
    plain = np.broadcast_to(colour(np.uint8, 3), pixels.shape).copy()
    edsr = Upscaler(
        open_builtin("edsr-baseline-x2").network,
        Options(scale=2, precision="float32"),
    )
    larger = edsr.upscale(Image(pixels, alpha=alpha))
    visible = larger.alpha > 0
    np.testing.assert_array_equal(
        larger.pixels[visible], edsr.upscale(Image(plain, alpha=alpha)).pixels[visible]
    )


def test_consistency_counts_what_is_visible(bicubic):
    pixels, alpha = disc(np.uint8, 3)
    result = Upscaler(create_model("bicubic"), Options(scale=2, consistency=True)).run(
        Image(pixels, alpha=alpha)
    )
    assert result.residual is not None
    assert result.residual.describe()["max"] <= 1


def test_nothing_visible_and_colours_multiplied_by_alpha_are_left_as_they_are(bicubic):
    pixels, alpha = disc(np.uint8, 3)
    blank = bicubic.upscale(Image(pixels, alpha=np.zeros_like(alpha)))
    np.testing.assert_array_equal(blank.pixels, nearest(pixels, 2))
    multiplied = Image(pixels, "tiff", alpha=alpha, encoding={"extrasamples": (1,)})
    np.testing.assert_array_equal(
        bicubic.upscale(multiplied).pixels, bicubic.upscale_pixels(pixels)
    )
