"""What networks do to the radiometry of measurements: means, grids, invariance, and the error beside bicubic.

    python benchmarks/radiometry.py tiles scans --model edsr-baseline --model aplus --scale 2

Every file of the folders is enlarged by every model that takes it: a model of three channels gets three bands of a file (4, 3, 2 of
those that have them). A line for each model, over all files: the largest shift of the mean of a band, in per cent; the grid and the bias that a flat
image of the mean colour of the file gets, in thousandths of the range from black to white; the largest difference, in
thousandths of the range from black to white, that storing three times the values as float32 makes; the root mean square error after
making the file smaller by bicubic, over bicubic's, as the median. ``--plain`` shows the networks without calibration.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import RayscaleError
from rayscale.imaging import Handling, Image, read_image
from rayscale.imaging.levels import Levels
from rayscale.inference import Upscaler
from rayscale.options import Options
from rayscale.registry import open_model
from rayscale.resampling import degrade

_VISIBLE = (3, 2, 1)  # bands 4, 3, 2: red, green and blue of Sentinel-2


@dataclass
class Row:
    """The findings of one model, one of each file."""

    shifts: list[float] = field(default_factory=list)
    grids: list[float] = field(default_factory=list)
    biases: list[float] = field(default_factory=list)
    variances: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


def read(path: Path) -> Image | None:
    """A file as one picture, the middle slice of a volume; None for what is not a complete measurement."""
    try:
        image = read_image(path.read_bytes(), handling=Handling(labels="nearest"))
    except RayscaleError:
        return None
    if image.labels or (image.missing is not None and not image.missing.valid.all()):
        return None
    pixels = image.pixels if image.pixels.ndim == 3 else image.pixels[len(image.pixels) // 2]
    if min(pixels.shape[:2]) < 48 or pixels.min() == pixels.max():
        return None
    return Image(pixels, levels=image.levels or Levels.of_picture(pixels))


def enlarge(upscaler: Upscaler, pixels: NDArray[Any], levels: Levels) -> NDArray[np.float64]:
    """As floats, so that rounding hides nothing."""
    larger = upscaler.upscale_pixels(pixels.astype(np.float32), replace(levels, limits=None))
    return larger.astype(np.float64)


def examine(upscaler: Upscaler, bicubic: Upscaler, image: Image, row: Row) -> None:
    """Add the findings of one image."""
    pixels, levels = image.pixels, image.levels
    assert levels is not None
    if (
        not upscaler.predictor.model.any_channels
        and upscaler.predictor.model.channels != pixels.shape[-1]
    ):
        if upscaler.predictor.model.channels != 3 or pixels.shape[-1] < 4:
            return
        pixels = pixels[..., list(_VISIBLE)]
        if len(levels.black) > 1:
            black, white = (
                tuple(ends[c] for c in _VISIBLE) for ends in (levels.black, levels.white)
            )
            levels = replace(levels, black=black, white=white)
    scale = int(upscaler.scale)
    span = np.subtract(levels.white, levels.black)
    larger = enlarge(upscaler, pixels, levels)
    means = pixels.astype(np.float64).mean((0, 1))
    row.shifts.append(float(np.abs(larger.mean((0, 1)) / means - 1).max()))
    side = upscaler.frames.halo + 4
    flat = np.broadcast_to(means, (2 * side, 2 * side, len(means)))
    place = slice((side - 2) * scale, (side + 2) * scale)  # beyond the reach of the borders
    answer = (enlarge(upscaler, flat, levels)[place, place] - means) / span
    row.grids.append(float(np.ptp(answer, axis=(0, 1)).max()))
    row.biases.append(float(np.abs(answer.mean((0, 1))).max()))
    thrice = replace(
        levels, black=tuple(3 * v for v in levels.black), white=tuple(3 * v for v in levels.white)
    )
    again = enlarge(upscaler, 3 * pixels.astype(np.float32), thrice) / 3
    row.variances.append(float((np.abs(again - larger) / np.abs(span)).max()))
    height, width = (size // scale * scale for size in pixels.shape[:2])
    whole = pixels[:height, :width]
    if whole.dtype in (np.uint8, np.uint16):
        small = degrade(whole, scale)
        errors = [
            np.sqrt(np.square(enlarge(each, small, levels) - whole).mean())
            for each in (upscaler, bicubic)
        ]
        row.errors.append(float(errors[0] / errors[1]))


def main() -> None:
    start, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=start, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="without calibration")
    options = parser.parse_args()
    files = sorted(p for folder in options.folders for p in folder.rglob("*") if p.is_file())
    images = [image for image in map(read, files) if image is not None]
    print(f"{len(images)} of {len(files)} files, x{options.scale}")
    print(
        "model                 files  mean shift %  grid max  median  invariance/1000  RMSE/bicubic"
    )
    bicubic = Upscaler(
        open_model("bicubic").network,
        Options(scale=options.scale, precision="float32"),
    )
    for name in options.model:
        network = open_model(name, scale=options.scale).network
        upscaler = Upscaler(
            network,
            Options(scale=options.scale, precision="float32"),
            calibrate=not options.plain,
        )
        row = Row()
        for image in images:
            examine(upscaler, bicubic, image, row)
        error = statistics.median(row.errors) if row.errors else float("nan")
        print(
            f"{name:20s} {len(row.shifts):6d} {100 * max(row.shifts):13.4f} {1000 * max(row.grids):10.4f} "
            f"{1000 * max(row.biases):10.4f} {1000 * max(row.variances):16.4f} {error:13.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
