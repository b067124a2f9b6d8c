"""A+ (Timofte, De Smet and Van Gool 2014, "A+: Adjusted Anchored Neighborhood Regression for Fast Super-Resolution").

What a trained A+ computes is here; how its numbers are found is ``rayscale.training.aplus``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayscale.models.luma import LUMA_GAIN, LumaResolver
from rayscale.models.network import full_precision, require_one_scale, require_trunk
from rayscale.models.path import widen
from rayscale.models.spec import ModelSpec
from rayscale.models.system import UNSHIFTED_OPTIONS, system
from rayscale.resampling import upsample

WINDOW = 9
"""Side in LR pixels of what the features of a patch depend on; see ``rayscale.training.aplus``."""
PATCH = 3
"""Side of a patch in LR pixels; neighbouring patches are one LR pixel apart."""
MOST_COMPONENTS = 81
"""Patches are written in at most so many components: at x4 that is 81 of 144, which keeps the file below 6 MB."""

_REACH = WINDOW // 2
_OVERLAP = PATCH // 2
_AT_ONCE = (
    1 << 15
)  # patches whose products with all atoms are in memory together: 128 MiB at 1024 atoms


@system(
    "aplus",
    "A+, 1024 anchored regressors from 30 features, luma only (Timofte et al. 2014)",
    defaults={"filters": 30, "blocks": 1024, "value_range": 1.0},
    options=UNSHIFTED_OPTIONS,
    channels=1,
)
class APlus(LumaResolver):
    """Bicubic interpolation plus, for every LR pixel, a patch of 3x3 LR pixels regressed from its features.

    The features are the gradients of first and second order of the interpolated image in the patch, projected
    on their ``filters`` principal components. The ``blocks`` atoms of a dictionary of features divide their
    space; each owns a linear regressor, and the atom most correlated with the features, of either sign, is used.
    Overlapping patches are averaged.

    Gradients, projection and interpolation are linear, so ``features`` maps the 9x9 LR pixels around the
    centre of a patch to its features at once, and the interpolated image is needed for the sum only. The image
    goes on beyond its border by its edge pixels, so that every output pixel is the mean of nine patches.

    Nothing here learns by gradients: the weights are frozen parameters. Fresh ones are zero, which is bicubic.
    """

    keeps_means = True

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        require_trunk(spec)
        require_one_scale(spec)
        features, atoms, pixels = spec.filters, spec.blocks, (PATCH * spec.scales[0]) ** 2
        components = min(pixels, MOST_COMPONENTS)
        self.features = _zeros(features, WINDOW**2)
        self.atoms = _zeros(atoms, features)
        self.regressors = _zeros(atoms, components, features)
        self.patches = _zeros(components, pixels)

    def enlarge(self, x: Tensor, scale: float) -> Tensor:
        wide = widen(x)
        y = self.training_view(wide)
        detail = self._detail_of(y.flatten(0, 1)[:, None])
        detail = detail.reshape(*y.shape[:2], *detail.shape[2:])
        if x.shape[1] == 3:
            detail = LUMA_GAIN * detail
        return upsample(wide, scale) + detail

    def _detail_of(self, y: Tensor) -> Tensor:
        """What is added to the interpolation of ``y (N, 1, H, W)``."""
        # The features are small differences of pixels: nothing of them would be left in bfloat16.
        with full_precision(y):
            wide = y.to(torch.promote_types(y.dtype, self.features.dtype))
            margin = _REACH + _OVERLAP
            padded = functional.pad(wide, (margin,) * 4, mode="replicate")
            height, width = y.shape[-2:]
            rows = max(1, _AT_ONCE // (y.shape[0] * width))
            bands = [
                self._band(padded[:, :, top : top + rows + 2 * margin])
                for top in range(0, height, rows)
            ]
            return torch.cat(bands, dim=2)

    def halo(self, scale: float) -> int:
        self.resolve_scale(scale)
        return _REACH + _OVERLAP

    def _band(self, y: Tensor) -> Tensor:
        """The detail of ``y (N, 1, H, W)`` inside its margin of 5 LR pixels."""
        count, _, height, width = y.shape
        windows = functional.unfold(y, WINDOW)
        features = (self.features @ windows).transpose(1, 2)
        components = self._regress(features.flatten(0, 1))
        patches = (components @ self.patches).reshape(count, -1, self.patches.shape[1])
        scale = self.scales[0]
        size = (scale * (height - 2 * _REACH + 2), scale * (width - 2 * _REACH + 2))
        total = functional.fold(patches.transpose(1, 2), size, PATCH * scale, stride=scale)
        edge = 2 * _OVERLAP * scale  # where less than nine patches overlap
        return total[:, :, edge:-edge, edge:-edge] / PATCH**2

    def _regress(self, features: Tensor) -> Tensor:
        """Components ``(n, components)`` of the patches with ``features (n, features)``."""
        nearest = (features @ self.atoms.T).abs_().argmax(dim=1)
        # Together per atom: its regressor is read once, not once per patch.
        order = nearest.argsort()
        counts = nearest.bincount(minlength=len(self.atoms)).tolist()
        groups = torch.split(features[order], counts)
        regressed = [
            group @ regressor.T
            for group, regressor in zip(groups, self.regressors, strict=True)
            if len(group)
        ]
        return torch.cat(regressed)[order.argsort()]


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape), requires_grad=False)
