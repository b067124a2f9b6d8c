"""From an image to a larger image: the one way to upscale, shared by evaluation, batch and serving."""

from rayscale.inference.scenes import upscale_scene, upscale_window, windows_of, writer_of
from rayscale.inference.upscaler import Precision, Upscaled, Upscaler

__all__ = [
    "Precision",
    "Upscaled",
    "Upscaler",
    "upscale_scene",
    "upscale_window",
    "windows_of",
    "writer_of",
]
