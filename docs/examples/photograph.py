"""Upscale a photograph by bicubic and by EDSR-baseline, in Python.

python docs/examples/photograph.py photo.png photograph.png
"""

import sys

import numpy as np
from picture import draw
from PIL import Image

from rayscale.inference import Upscaler
from rayscale.registry import open_model

photo, picture = sys.argv[1:]
pixels = np.asarray(Image.open(photo).convert("RGB"))

images = {"photograph": pixels}
for name in ("bicubic", "edsr-baseline"):
    model = open_model(name, scale=4)
    images[f"{name} x4"] = Upscaler(model.network, scale=4).upscale_pixels(pixels)

draw(picture, images)
