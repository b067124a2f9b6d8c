"""Comparing two pictures by their frequencies: how fine the detail is that they share, how far they are displaced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayscale.imaging.fidelity import Values, as_pair

THRESHOLD = 1 / 7
_STEPS = 100  # of a pixel, in which displacements are found


@dataclass(frozen=True, eq=False)
class RingCorrelation:
    """Correlation of two pictures over spatial frequency.

    ``frequency`` in cycles per pixel, rising to 0.5 at most; ``correlation`` in [-1, 1], one value per ring.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]

    @property
    def resolution(self) -> float:
        """Size in pixels of the finest detail shared: where the curve first falls below 1/7.

        2, the finest there is, for a curve that never does; the shorter side of the picture for one that begins
        below. The threshold is that of Nieuwenhuizen et al. 2013 ("Measuring image resolution in optical nanoscopy").
        """
        below = np.flatnonzero(self.correlation < THRESHOLD)
        if not below.size:
            return 2.0
        end = int(below[0])
        if end == 0:
            return float(1 / self.frequency[0])
        crossing = slice(end, end - 2 if end > 1 else None, -1)  # np.interp wants rising values
        return float(1 / np.interp(THRESHOLD, self.correlation[crossing], self.frequency[crossing]))


def ring_correlation(a: Values, b: Values) -> RingCorrelation:
    """Fourier ring correlation (Saxton and Baumeister 1982) of two ``(H, W, C)`` pictures.

    Means are removed and a Hann window applied, so that borders do not count as detail. Rings are as wide as the
    lowest frequency of the shorter side; the channels add up within a ring. Errors as ``fidelity.as_pair``.
    """
    first, second = (_spectrum(values) for values in as_pair(a, b))
    height, width = first.shape[:2]
    shorter = min(height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    ring = np.rint(radius * shorter).astype(np.int64).ravel()

    def total(product: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(ring, weights=product.sum(axis=2).ravel())
        # Without the mean, and without the corners beyond the finest frequency of an axis.
        return np.asarray(sums[1 : shorter // 2 + 1], np.float64)

    cross = total((first * second.conj()).real)
    energy = total(np.abs(first) ** 2), total(np.abs(second) ** 2)
    norm = np.sqrt(energy[0] * energy[1])
    # Two rings without any energy are equal.
    alike = (energy[0] == energy[1]).astype(np.float64)
    correlation = np.divide(cross, norm, out=alike, where=norm > 0)
    return RingCorrelation(np.arange(1, shorter // 2 + 1) / shorter, correlation)


def _spectrum(values: NDArray[np.float64]) -> NDArray[np.complex128]:
    centred = values - values.mean(axis=(0, 1))
    # Without the zeros at the ends of numpy's window, which would drop the outermost pixels.
    down, across = (np.hanning(size + 2)[1:-1] for size in values.shape[:2])
    return np.asarray(np.fft.fft2(centred * np.outer(down, across)[:, :, None], axes=(0, 1)))


def displacement(reference: Values, moved: Values) -> tuple[float, float]:
    """Rows and columns by which ``moved`` has to be shifted to lie on ``reference``, to 1/100 of a pixel.

    Phase correlation of the means over channels, refined by a matrix Fourier transform around its peak
    (Guizar-Sicairos et al. 2008, "Efficient subpixel image registration algorithms"). Errors as
    ``fidelity.as_pair``.
    """
    first, second = (np.fft.fft2(v.mean(axis=2)) for v in as_pair(reference, moved))
    cross = first * second.conj()
    cross /= np.maximum(np.abs(cross), 100 * np.finfo(np.float64).eps)
    y, x = _peak(np.fft.ifft2(cross))
    height, width = cross.shape
    around = np.arange(-0.75 * _STEPS, 0.75 * _STEPS + 1) / _STEPS
    rows = (y - height if y > height // 2 else y) + around
    columns = (x - width if x > width // 2 else x) + around
    turn = 2j * np.pi
    down = np.exp(turn * np.outer(rows, np.fft.fftfreq(height)))
    across = np.exp(turn * np.outer(np.fft.fftfreq(width), columns))
    y, x = _peak(down @ cross @ across)
    return float(rows[y]), float(columns[x])


def _peak(correlation: NDArray[np.complex128]) -> tuple[int, int]:
    row, column = np.unravel_index(np.argmax(np.abs(correlation)), correlation.shape)
    return int(row), int(column)
