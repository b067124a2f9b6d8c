"""Pairs for A+: the features of a low-resolution patch, and the detail that interpolation lost in it.

The features of Zeyde, Elad and Protter 2010, as Timofte et al. 2014 use them: gradients of first and second
order of the interpolated luma in a patch of 3x3 LR pixels, projected on their principal components. Every step is
linear, so a patch's features are one matrix times its window of 9x9 LR pixels, which is all that is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from rayscale.data import Dataset
from rayscale.degradations import draw
from rayscale.errors import ConfigError, InputError
from rayscale.models.aplus import PATCH, WINDOW
from rayscale.models.network import SuperResolver
from rayscale.resampling import modcrop, resize, upsample

# Of a sub-image at least this share of its patches is used, so that a large dataset is not read whole.
_LEAST_SHARE = 1 / 32


def gradient_operator(scale: int) -> Tensor:
    """``(4 (3 scale)^2, 81)`` float64: from a window of LR pixels to the gradients inside its central patch.

    Horizontal and vertical differences ``[1 0 .. -1]`` over ``scale`` pixels, then ``[1 0 .. -2 0 .. 1] / 2``, of
    the interpolated window.
    """
    units = torch.eye(WINDOW**2, dtype=torch.float64).reshape(-1, 1, WINDOW, WINDOW)
    midway = upsample(units, scale)
    start, side = scale * (WINDOW - PATCH) // 2, scale * PATCH

    def moved(offset: int, axis: int) -> Tensor:
        return midway.narrow(axis, start + offset, side).narrow(5 - axis, start, side)

    ahead = (scale + 1) // 2  # as MATLAB centres a kernel of even length
    maps = [moved(ahead, axis) - moved(ahead - scale, axis) for axis in (3, 2)]
    maps += [(moved(scale, axis) + moved(-scale, axis)) / 2 - moved(0, axis) for axis in (3, 2)]
    return torch.cat(maps, dim=1).flatten(1).T


def principal_features(moment: Tensor, scale: int, count: int) -> tuple[Tensor, float]:
    """The matrix ``(count, 81)`` from windows to features, and the share of the gradients' energy they keep.

    ``moment (81, 81)`` is the sum over all windows of ``w w'``. As in the paper no mean is removed.
    """
    operator = gradient_operator(scale)
    energies, components = torch.linalg.eigh(operator @ moment.double() @ operator.T)
    kept = energies[-count:].sum() / energies.sum()
    strongest = components[:, -count:].flip(1)
    # The sign of an eigenvector is arbitrary; fixed, the same data give the same file on every machine.
    strongest = strongest * strongest.sum(dim=0).sign()
    return strongest.T @ operator, kept.item()


@dataclass(frozen=True)
class Source:
    """The sub-images of a dataset that are used, in a random order, at several sizes.

    Attributes:
        model: whose view of an image (luma) and scale is learned.
        seed: of the order and of every choice of patches.
        sizes: factors at most 1 by which images are shrunk before LR images are made of them; 1 alone for a dataset of
            pairs, whose LR images are used.
    """

    dataset: Dataset
    model: SuperResolver
    sizes: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        if self._stored and self.sizes != (1.0,):
            raise ConfigError(
                f"the LR images of {self.dataset.uri} are not made by bicubic ({self.dataset.manifest.degradation_name}), and it "
                "has none for smaller HR images; set data.sizes=1, or prepare the HR images with lr=made"
            )

    @property
    def _stored(self) -> bool:
        """Whether LR is what the dataset has; bicubic is made anew for every size, and what is drawn as well."""
        return self.dataset.has_lr and self.dataset.manifest.lr != "bicubic"

    def available(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Patches of each row, over all sizes."""
        scale, manifest = self.dataset.scale, self.dataset.manifest
        planes = 1 if manifest.channels == 3 else manifest.channels
        sides = self.dataset.sizes[rows][:, :, None] * np.array(self.sizes)
        counts = np.maximum(np.rint(sides).astype(np.int64) // scale - PATCH + 1, 0)
        total: npt.NDArray[np.int64] = counts.prod(axis=1).sum(axis=1)
        return planes * total

    def total(self, most: int) -> int:
        """Patches of all the rows that are used for ``most`` of them."""
        return int(self.available(self._rows(most)).sum())

    def patches(self, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows ``(n, 81)`` and details ``(n, 9 scale^2)``, image by image, about ``most`` in all.

        Every patch when there are fewer. Luma in [0, 1], float32. Raises InputError when no image is large enough.
        """
        rows, total = self._rows(most), self.total(most)
        if not total:
            raise InputError(
                f"{self.dataset.uri} has no image of {PATCH * self.dataset.scale} pixels a side, one patch at "
                f"x{self.dataset.scale}"
            )
        generator = torch.Generator().manual_seed(self.seed)
        for row in rows:
            for size in self.sizes:
                lr, hr = self._pair(int(row), size)
                if min(lr.shape[-2:]) < PATCH:
                    continue
                windows, details = cut(lr, hr, self.dataset.scale)
                share = min(1.0, most / total)
                count = round(len(windows) * share)
                some = torch.randperm(len(windows), generator=generator)[:count]
                yield windows[some], details[some]

    def _rows(self, most: int) -> npt.NDArray[np.int64]:
        """In a random order, as many rows as are needed to take ``most`` patches from them sparingly."""
        generator = torch.Generator().manual_seed(self.seed)
        rows: npt.NDArray[np.int64] = torch.randperm(len(self.dataset), generator=generator).numpy()
        reached = self.available(rows).cumsum()
        return rows[: int(np.searchsorted(reached, most / _LEAST_SHARE)) + 1]

    def _pair(self, row: int, size: float) -> tuple[Tensor, Tensor]:
        """LR and HR ``(planes, 1, H, W)`` of one row at one size, made as the benchmarks make theirs: of integers."""
        lr, pixels = self.dataset.pair(row)
        if self._stored:
            return self._luma(np.moveaxis(lr, 0, -1)), self._luma(np.moveaxis(pixels, 0, -1))
        if size != 1:
            shape = [round(side * size) for side in pixels.shape[1:]]
            shrunk = resize(torch.tensor(pixels, dtype=torch.float64), (shape[0], shape[1]))
            peak = self.dataset.manifest.peak
            pixels = shrunk.add(0.5).floor().clamp(0, peak).numpy().astype(pixels.dtype)
        scale = self.dataset.scale
        if min(pixels.shape[1:]) < scale:
            return torch.empty(1, 1, 0, 0), torch.empty(1, 1, 0, 0)
        hr = modcrop(np.moveaxis(pixels, 0, -1), scale)
        random = draw(self.seed, 0, row)
        return self._luma(self.dataset.manifest.degradation.apply(hr, scale, random)), self._luma(
            hr
        )

    def _luma(self, pixels: npt.NDArray[np.generic]) -> Tensor:
        x = torch.tensor(np.moveaxis(pixels, -1, 0)[None], dtype=torch.float32)
        return self.model.training_view(x / self.dataset.manifest.peak).flatten(0, 1)[:, None]


def cut(lr: Tensor, hr: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Every patch of ``lr (N, 1, h, w)`` and ``hr (N, 1, sh, sw)``, one LR pixel apart: windows and details."""
    margin = (WINDOW - PATCH) // 2
    windows = functional.unfold(functional.pad(lr, (margin,) * 4, mode="replicate"), WINDOW)
    details = functional.unfold(hr - upsample(lr, scale), PATCH * scale, stride=scale)
    return windows.transpose(1, 2).flatten(0, 1), details.transpose(1, 2).flatten(0, 1)
