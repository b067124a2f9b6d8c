"""What a picture costs in memory: its pixels, not floats of all of them; and parts equal to the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rayscale.imaging import Image
from rayscale.inference import Upscaler, upscaler
from rayscale.models.network import SuperResolver
from rayscale.models.registry import create_model

STATUS = Path("/proc/self/status")


def _resident(kind: str) -> int:
    (line,) = (text for text in STATUS.read_text().splitlines() if text.startswith(kind))
    return int(line.split()[1]) << 10


def _peak_growth(action) -> int:
    """Bytes by which the resident memory of this process grew at most while ``action`` ran."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the kernel keeps no peak of memory that can be reset")
    before = _resident("VmRSS")
    action()
    return _resident("VmHWM") - before


class Repeated(SuperResolver):
    """Repeats pixels: a network that costs nothing, so that what is measured is what surrounds it."""

    any_channels = True

    def enlarge(self, x, scale):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def halo(self, scale):
        return 1


def test_only_strips_of_a_large_picture_are_floats():
    image = Image(
        np.full((1500, 2000, 3), 90, np.uint8), "png", alpha=np.full((1500, 2000), 9, np.uint8)
    )
    engine = Upscaler(Repeated(create_model("bicubic").spec), 2, precision="float32")
    engine.upscale(Image(image.pixels[:200, :200], "png"))  # what is loaded at the first use
    made: list[Image] = []
    growth = _peak_growth(lambda: made.append(engine.upscale(image)))
    written = made[0].pixels.nbytes + made[0].alpha.nbytes
    assert np.all(made[0].pixels == 90)
    assert growth < 2 * written + (32 << 20)  # as float32 alone the output is four times its bytes


@pytest.mark.parametrize(
    "options",
    [{"ensemble": True}, {"consistency": True}, {"uncertainty": True, "consistency": True}],
)
@pytest.mark.parametrize("scale", [2, 2.5])
def test_windows_of_a_picture_equal_the_whole(monkeypatch, options, scale):
    pixels = np.random.default_rng(0).integers(0, 65536, (170, 240, 3), np.uint16)
    image = Image(pixels, "tiff", encoding={"lossless": True})
    engine = Upscaler(create_model("bicubic"), scale, precision="float32", **options)
    whole = engine.run(image)
    monkeypatch.setattr(upscaler, "WINDOW_BYTES", 2 * 4 * 3 * int(64 * scale) ** 2)
    assert len(engine.windows((170, 240), 3)) > 4
    parts = engine.run(image)
    np.testing.assert_array_equal(parts.image.pixels, whole.image.pixels)
    if whole.residual is not None and parts.residual is not None:
        assert parts.residual.maximum == whole.residual.maximum
        assert parts.residual.values == whole.residual.values
    if whole.uncertainty is not None and parts.uncertainty is not None:
        np.testing.assert_allclose(
            parts.uncertainty.pixels, whole.uncertainty.pixels, rtol=0, atol=0.01
        )
