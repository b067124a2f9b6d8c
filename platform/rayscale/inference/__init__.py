"""From an image to a larger image: the one way to upscale, shared by evaluation, batch and serving."""

from rayscale.inference.predictor import Predictor
from rayscale.inference.scenes import upscale_scene, upscale_window, windows_of, writer_of
from rayscale.inference.upscaler import Upscaled, Upscaler
from rayscale.options import Options, Precision

__all__ = [
    "Options",
    "Precision",
    "Predictor",
    "Upscaled",
    "Upscaler",
    "upscale_scene",
    "upscale_window",
    "windows_of",
    "writer_of",
]
