"""Upscale a photograph by bicubic and by EDSR-baseline, in Python.

python docs/examples/photograph.py photo.png photograph.png
"""

import sys

import numpy as np
from picture import draw
from PIL import Image

import rayscale

photo, picture = sys.argv[1:]
pixels = np.asarray(Image.open(photo).convert("RGB"))

images = {"photograph": pixels}
for name in ("bicubic", "edsr-baseline"):
    images[f"{name} x4"] = rayscale.open_model(name, scale=4).upscale(pixels)

draw(picture, images)
