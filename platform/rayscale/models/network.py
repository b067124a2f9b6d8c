"""What every system shares: the base class ``SuperResolver`` and the layers that several use.

The layers of the EDSR family keep the official module tree, so that state-dict keys are those of EDSR-PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rayscale.errors import ConfigError, InputError
from rayscale.models.path import Pointwise, Skip, reach, widen
from rayscale.models.spec import ModelSpec
from rayscale.resampling import exact_scale


class SuperResolver(nn.Module):
    """A network that enlarges images ``(N, C, H, W)`` by one of its ``scales``, or by any scale of its range.

    A subclass sets its layers up from the specification and implements ``path``; or, where what it does is not a sequence
    of stages, ``enlarge`` and ``halo``.
    """

    # Prefixes of the state-dict keys that belong to one scale; a warm start leaves them fresh.
    scale_bound: ClassVar[tuple[str, ...]] = ()
    # Whether each channel is computed alone, so that any number of them may come.
    any_channels: ClassVar[bool] = False
    # Whether local means are those of the input by construction, for any weights.
    keeps_means: ClassVar[bool] = False
    # Whether the output is a linear function of the input, so that no value is too large for it.
    linear: ClassVar[bool] = False
    # Side of a tile in source pixels, halo not counted, where there is no path.
    tile: ClassVar[int] = 192
    # (low, high) where every scale in (low, high] is served besides ``scales``; see ``exact_scale``.
    scale_range: ClassVar[tuple[float, float] | None] = None

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def scales(self) -> tuple[int, ...]:
        """The scales this network serves, increasing."""
        return self.spec.scales

    @property
    def channels(self) -> int:
        """Image channels, the same in and out."""
        return self.spec.channels

    @property
    def default_scale(self) -> int:
        """The scale for those who name none: 2, or the smallest that is served."""
        return 2 if 2 in self.scales else min(self.scales)

    def resolve_scale(self, scale: float | None) -> float:
        """``scale`` when served (an ``int`` when it is whole), or the only scale for None.

        Raises ConfigError for a scale that is not served, and for None when there are several.
        """
        served = ", ".join(map(str, self.scales))
        if self.scale_range is not None:
            served += " and any above {:g} up to {:g}".format(*self.scale_range)
        if scale is None:
            if len(self.scales) == 1:
                return self.scales[0]
            raise ConfigError(f"{self.spec.system} serves the scales {served}; give one of them")
        if scale in self.scales:
            return int(scale)
        if self.scale_range is not None and self.scale_range[0] < scale <= self.scale_range[1]:
            exact = exact_scale(scale)
            return int(exact) if exact.denominator == 1 else float(exact)
        raise ConfigError(f"this {self.spec.system} serves the scale {served}, not {scale:g}")

    def training_view(self, x: Tensor) -> Tensor:
        """What of an image ``(N, C, H, W)`` the network learns, LR and HR alike: all of it.

        A network that works on luma alone returns ``(N, 1, H, W)``, which ``forward`` takes as well.
        """
        return x

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        """Enlarge ``x (N, C, H, W)``, floating, in ``[0, value_range]``, to ``(N, C, sH, sW)``, rounded down.

        The result is neither clipped nor rounded, and float32 under autocast.

        Raises:
            ConfigError: the scale is not served, or None when several are.
            InputError: another number of channels than the network's.
        """
        scale = self.resolve_scale(scale)
        if x.ndim != 4 or (x.shape[1] != self.channels and not self.any_channels):
            raise InputError(
                f"{self.spec.system} takes tensors (N, {self.channels}, H, W), not {tuple(x.shape)}"
            )
        y = self.enlarge(x, scale)
        return widen(y)

    def path(self, scale: float, channels: int) -> nn.Sequential | None:
        """The stages (see ``rayscale.models.path``) that enlarge images of ``channels`` channels, if there are such.

        Made anew at each call around the network's own layers, whose places in the state dict stay what they are.
        """
        return None

    def core(self, scale: float) -> nn.Module | None:
        """The part of ``path`` that is layers alone, as other libraries compute it; None where there is no path.

        It takes and gives ``(N, C, H, W)`` of ``channels`` channels, black at 0 and white at ``value_range``.
        """
        return self.path(scale, self.channels)

    def around(self, core: nn.Module, scale: float, channels: int) -> nn.Module:
        """The enlargement of images of ``channels`` channels, given what computes the core."""
        return core

    def enlarge(self, x: Tensor, scale: float) -> Tensor:
        """The computation of ``forward``, its arguments already checked; it may stay narrow under autocast."""
        enlarged: Tensor = self._stages(scale, x.shape[1])(x)
        return enlarged

    def halo(self, scale: float) -> int:
        """LR pixels around a pixel that its enlargement depends on: the exact margin of a tile."""
        return reach(self._stages(self.resolve_scale(scale), self.channels))

    def _stages(self, scale: float, channels: int) -> nn.Sequential:
        path = self.path(scale, channels)
        if path is None:
            raise NotImplementedError(f"{type(self).__name__} needs a path, or enlarge and halo")
        return path


class MeanShift(Pointwise):
    """Add ``sign * value_range * mean`` per channel, in float32 at least.

    Official code does this by a frozen 1x1 convolution with an identity weight. Its keys are kept (as
    buffers, so that they count neither as parameters nor for the optimizer), the arithmetic is one addition:
    exact under autocast, and a NaN stays in its channel.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, value_range: float, mean: Sequence[float], sign: int) -> None:
        super().__init__()
        self.shift = [sign * value_range * value for value in mean]
        self.tolerance = 1e-5 * value_range
        self.register_buffer("weight", identity(len(mean)))
        self.register_buffer("bias", torch.tensor(self.shift))

    def forward(self, x: Tensor) -> Tensor:
        return widen(x) + self.bias[:, None, None]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuse a shift that ``forward`` or the specification would not honour."""
        for name, expected in (
            ("weight", identity(len(self.shift))),
            ("bias", torch.tensor(self.shift)),
        ):
            found = state_dict.get(prefix + name)
            if found is None or found.shape != expected.shape or found.is_meta:
                continue  # missing keys and shapes are reported by torch
            apart = (found.detach().cpu().float() - expected).abs().max().item()
            if not apart <= self.tolerance:
                raise ConfigError(
                    f"{prefix}{name} differs from the specification by {apart:g} "
                    f"(at most {self.tolerance:g}): the weights were trained with another "
                    "normalisation; build the model with their mean, a unit deviation, and their "
                    "value_range"
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)


class ResBlock(Skip):
    """``x + residual_scaling * conv(relu(conv(x)))``: no normalisation, nothing after the addition."""

    def __init__(self, filters: int, kernel: int, residual_scaling: float = 1.0) -> None:
        body = nn.Sequential(
            conv(filters, filters, kernel), nn.ReLU(inplace=True), conv(filters, filters, kernel)
        )
        super().__init__(body, residual_scaling)


class BatchNorm(nn.BatchNorm2d):
    """PyTorch's, without the count of batches, an integer that only a cumulative average would need.

    So everything in a state dict is a float. A tile equals the whole image in evaluation mode only.
    """

    def __init__(self, filters: int) -> None:
        super().__init__(filters)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, *arguments: Any) -> None:
        nn.Module._load_from_state_dict(self, *arguments)  # BatchNorm2d's would add the count again


class Upsampler(nn.Sequential):
    """Convolution, pixel shuffle and what ``activation`` makes: once for x2 and x3, twice for x4.

    ConfigError for other scales.
    """

    def __init__(
        self, scale: int, filters: int, activation: Callable[[], nn.Module] | None = None
    ) -> None:
        steps = {2: (2,), 3: (3,), 4: (2, 2)}.get(scale)
        if steps is None:
            raise ConfigError(f"scale {scale} is not available; the upsampler makes 2, 3 or 4")
        layers: list[nn.Module] = []
        for step in steps:
            layers += [conv(filters, step**2 * filters, 3), nn.PixelShuffle(step)]
            layers += [activation()] if activation else []
        super().__init__(*layers)


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast switched off for what is computed of ``x``; the meta device, which computes shapes only, has none."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def identity(channels: int) -> Tensor:
    """The weight ``(C, C, 1, 1)`` of a 1x1 convolution that changes nothing."""
    # Not torch.eye: on the meta device it imports the compiler, which takes seconds.
    return torch.zeros(channels, channels).fill_diagonal_(1.0)[:, :, None, None]


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution with bias that keeps the size of the image (zero padding)."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def require_trunk(spec: ModelSpec) -> None:
    """ConfigError unless the specification has at least one block and one filter."""
    if spec.blocks < 1 or spec.filters < 1:
        raise ConfigError(
            f"{spec.system} needs at least 1 block and 1 filter, not {spec.blocks} and {spec.filters}"
        )


def require_one_scale(spec: ModelSpec) -> None:
    """ConfigError for the specification of a network of several scales."""
    if len(spec.scales) != 1:
        raise ConfigError(f"{spec.system} serves one scale, not {list(spec.scales)}")
