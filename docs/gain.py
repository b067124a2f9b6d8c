"""Draw docs/images/gain.png: a satellite tile and a photograph, made smaller by bicubic and enlarged again.

    python docs/gain.py EuroSAT/Highway_1.tif gb82/sumac-lossless.webp --crop 112,448,128

The tile (bands 4, 3, 2) is enlarged by x2, the crop of the photograph by x4, by bicubic and by EDSR-baseline.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import rasterio

from rayscale.resampling import degrade

OUTPUT = Path(__file__).parent / "images/gain.png"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tile", type=Path, help="a EuroSAT tile of 13 bands")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--crop", default="112,448,128", help="x,y,side of the photograph")
    options = parser.parse_args()
    x, y, side = map(int, options.crop.split(","))
    photo = np.asarray(PIL.Image.open(options.photo).convert("RGB"))[y : y + side, x : x + side]
    with rasterio.open(options.tile) as file:
        tile = np.moveaxis(file.read((4, 3, 2)), 0, -1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [enlarge(tile, 2, Path(folder)), enlarge(photo, 4, Path(folder))]
    draw(rows)


def enlarge(original: np.ndarray, scale: int, folder: Path) -> list[np.ndarray]:
    """The small image, and what ``rayscale upscale`` makes of it by bicubic and by EDSR; the original last."""
    small, large = folder / "small.tif", folder / "large.tif"
    pixels = degrade(original, scale)
    height, width, count = pixels.shape
    with rasterio.open(
        small, "w", driver="GTiff", width=width, height=height, count=count, dtype=pixels.dtype
    ) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    results = []
    for model in ("bicubic", "edsr-baseline"):
        command = ["upscale", small, large, "--model", model, "--scale", str(scale)]
        subprocess.run([sys.executable, "-m", "rayscale", *map(str, command)], check=True)
        with rasterio.open(large) as file:
            results.append(np.moveaxis(file.read(), 0, -1))
    return [pixels, *results, original]


def draw(rows: list[list[np.ndarray]]) -> None:
    """A row for each image: small, bicubic, EDSR, original, with the RMSE of both in units of the image."""
    figure, panels = plt.subplots(2, 4, figsize=(10, 5.5), layout="constrained")
    for line, (images, scale) in enumerate(zip(rows, (2, 4), strict=True)):
        original = images[-1].astype(float)
        low, high = np.percentile(original, (1, 99)) if original.max() > 255 else (0, 255)
        titles = ["input", f"bicubic x{scale}", f"EDSR-baseline x{scale}", "original"]
        for column, image in enumerate(images):
            panel = panels[line, column]
            panel.imshow(np.clip((image - low) / (high - low), 0, 1), interpolation="nearest")
            panel.set_axis_off()
            title = titles[column]
            if column in (1, 2):
                title += f", RMSE {np.sqrt(np.mean((image - original) ** 2)):.1f}"
            panel.set_title(title, fontsize=10)
    figure.savefig(OUTPUT, dpi=96, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
