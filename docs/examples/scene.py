"""Upscale a Sentinel-2 scene by windows, and read from the result how it was made and how far to trust it.

python docs/examples/scene.py scene.tif larger.tif scene.png
"""

import json
import sys
from pathlib import Path

import numpy as np
import rasterio
from picture import draw

import rayscale

scene, larger, picture = sys.argv[1:]
rayscale.upscale(scene, larger, scale=2, levels=(0, 10_000), uncertainty=True)

colours = (1, 2, 3)  # the bands that are red, green and blue
with rasterio.open(scene) as source, rasterio.open(larger) as result:
    assert source.bounds == result.bounds
    provenance = json.loads(result.tags()["RAYSCALE"])
    before, after = (np.moveaxis(file.read(colours), 0, -1) for file in (source, result))
with rasterio.open(Path(larger).with_suffix(".uncertainty.tif")) as file:
    deviation = file.read().mean(axis=0)

print("model", provenance["model"], "weights", provenance["weights"])
print(f"standard deviation over the ensemble: {np.nanmean(deviation):.1f} on average")
draw(picture, {"scene": before, "x2": after})
