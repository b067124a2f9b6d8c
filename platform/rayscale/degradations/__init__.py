"""How LR images come from HR images: what a network learns to undo, so a typed part of datasets, training and figures.

``Degradation`` is a chain of stages, written as text: ``bicubic``, ``mtf:sensor=sentinel-2``, ``kspace``,
``mtf:gain=0.3+blur_noise_jpeg:blur=0..0``. ``chain`` knows all stages; each is a module, ``sensors`` has the published
gains.
"""

from rayscale.degradations.chain import BICUBIC, STAGES, Degradation, draw

__all__ = ["BICUBIC", "STAGES", "Degradation", "draw"]
