"""Truncation of the Fourier transform: MRI of lower resolution measures fewer frequencies of the same object."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rayscale.degradations.stage import Floats, Stage


class KSpace(Stage):
    """The frequencies below the LR Nyquist, each exactly; nothing above. The image counts as periodic.

    Samples lie at the centres of LR pixels, so HR and LR show the same place. An image without frequencies from
    half a cycle per LR pixel on is therefore sampled exactly. It is made of whole slices: at the border of a part the
    period would be an edge.

    Chen et al. 2018 (ISBI) make their training pairs in this way, of magnitude images as here.
    """

    name: ClassVar[str] = "kspace"
    shrinks: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    def shrink(self, x: Floats, scale: int) -> Floats:
        for axis in (0, 1):
            x = _truncate(x, axis, scale)
        return x


def _truncate(x: Floats, axis: int, scale: int) -> Floats:
    size, target = x.shape[axis], x.shape[axis] // scale
    shape = [1] * x.ndim
    shape[axis] = target // 2 + 1
    frequencies = np.arange(target // 2 + 1).reshape(shape)
    kept = np.take(np.fft.rfft(x, axis=axis), range(target // 2 + 1), axis=axis)
    # The centre of the first LR pixel lies (scale - 1) / 2 HR pixels after that of the first HR pixel.
    kept = kept * np.exp(1j * np.pi * frequencies * (scale - 1) / size)
    return np.asarray(np.fft.irfft(kept, target, axis=axis) / scale)
