"""A network on a device: tensors in, larger tensors out, exact part by part, radiometry kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayscale.errors import InputError, NonFiniteOutputError, quantity
from rayscale.imaging.levels import Levels
from rayscale.inference import excess, localmean
from rayscale.inference.compiled import Compiled, compile_network, needs_cpu
from rayscale.inference.device import pick_device, pick_dtype
from rayscale.inference.ensemble import ensemble_moments, pad, self_ensemble
from rayscale.inference.flatfield import FlatField
from rayscale.inference.folding import fold
from rayscale.inference.localmean import keep_local_means
from rayscale.inference.parts import Parts
from rayscale.models.network import SuperResolver
from rayscale.options import Options
from rayscale.resampling import enlarged, upsample


class Predictor:
    """Enlarges tensors in the value range of the model.

    Args:
        model: the network; moved to the device and set to evaluation mode. Its weights must not change any longer.
        options: of which scale, precision, backend, tile, ensemble and uncertainty matter here.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        calibrate: keep the radiometry of the source (``flatfield``, ``localmean``, ``excess``). Without it the network
            is taken as it is, as published figures are.
        watch: called, unless None, before each tile and each stage of a strip, in the thread of the call; what it raises
            ends the work.

    Raises ConfigError for a scale that the model does not serve, and for a device that is not there.
    """

    def __init__(
        self,
        model: SuperResolver,
        options: Options,
        *,
        device: str = "auto",
        calibrate: bool = True,
        watch: Callable[[], None] | None = None,
    ) -> None:
        scale = model.default_scale if options.scale is None else options.scale
        self.options = options
        self.scale = model.resolve_scale(scale)
        on_cpu = device == "auto" and needs_cpu(model, options.backend)
        self.device = pick_device("cpu" if on_cpu else device)
        model = compile_network(model, self.scale, options.backend, self.device)
        self.calibrates = calibrate and not model.keeps_means
        self._splits = calibrate and not model.linear
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._watch = watch
        self._paths: dict[int, nn.Module | None] = {}
        self._flats: dict[tuple[int, torch.dtype], FlatField | None] = {}
        pick_dtype(options.precision, self.device, 8)  # impossible here fails now, not at an image

    @property
    def halo(self) -> int:
        """Source pixels around a pixel that its enlargement by the network depends on."""
        halo: int = self.model.halo(self.scale)
        return halo

    @property
    def reach(self) -> int:
        """Source pixels around a pixel that its enlargement and its local mean depend on."""
        return self.halo + (localmean.reach(self.scale) if self.calibrates else 0)

    def groups(self, count: int) -> list[slice]:
        """The channels that the model takes together, of ``count``.

        Equal channel counts run together; a one-channel model runs band by band; the interpolating models take any
        count. Nothing is ever turned into RGB silently. Raises InputError for any other count.
        """
        wanted = self.model.channels
        if count == wanted or self.model.any_channels:
            return [slice(0, count)]
        if wanted == 1:
            return [slice(i, i + 1) for i in range(count)]
        raise InputError(
            f"the image has {quantity(count, 'channel')}, the model {self.model.spec.system!r} was "
            f"made for {wanted}; use one for {f'{count} or for 1' if count > 1 else '1'}, or one for any number, as aplus is"
        )

    @torch.inference_mode()
    def predict(self, x: Tensor, *, bits: int = 16) -> Tensor:
        """The raw float32 output ``(N, C, sH, sW)`` on the CPU for ``x`` ``(N, C, H, W)`` in the model's value range.

        Computed part by part, equal to the whole image at once. ``bits`` is the depth that the precision has to serve;
        the default computes in float32.

        The self-ensemble needs an image that its flips leave on its own output grid. At a scale p/q that is one whose
        sides are multiples of q: others grow to it by repeating their last row and column, and what these made is
        cut off again.

        Raises OutOfMemoryError when not even the smallest parts fit into memory.
        """
        parts = self.parts(x.shape[1], bits)
        if not self.options.ensemble:
            return parts.enlarge(x)
        return self._crop(self_ensemble(parts.enlarge, pad(x, self.scale)), x)

    @torch.inference_mode()
    def enlarge(
        self, x: Tensor, bits: int, *, keep_means: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """``predict`` with the radiometry of ``x``, and with ``uncertainty`` the standard deviation of its eight members.

        Args:
            keep_means: whether local means are kept; not for those who correct more than these afterwards.

        Raises NonFiniteOutputError when the output is not finite in float32 either.
        """
        seen, beyond = excess.split(x, self.model.spec.value_range) if self._splits else (x, None)
        for depth in (bits, 16):  # overflow of a narrow type is not a reason to fail
            y, spread = self._moments(seen, depth)
            if self.is_sound(y):
                break
        else:
            raise NonFiniteOutputError
        if self.calibrates:
            flat = self._flat(x.shape[1], pick_dtype(self.options.precision, self.device, bits))
            if flat is not None:
                flat.subtract(y, seen)
            if keep_means:
                y = keep_local_means(y, seen, self.scale)
        if beyond is not None:
            y += upsample(beyond, self.scale)
        return y, spread

    def is_sound(self, y: Tensor) -> bool:
        """Whether the network did its part; interpolation always does, and levels tell of values that leave their type."""
        return self.model.linear or bool(torch.isfinite(y).all())

    def splits(self, pixels: NDArray[Any], levels: Levels) -> bool:
        """Whether some of the stored ``(H, W, C)`` lie so far beyond the levels that the network must not see them."""
        return self._splits and excess.exceeds(pixels, levels)

    def parts(self, channels: int, bits: int) -> Parts:
        """How images of ``channels`` channels and ``bits`` bits go through the network, ensemble and calibration aside."""
        options = self.options
        dtype = pick_dtype(options.precision, self.device, bits)
        path = self._path(channels)
        return Parts(self.model, path, self.scale, self.device, dtype, options.tile, self._watch)

    def _moments(self, x: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
        if not self.options.uncertainty:
            return self.predict(x, bits=bits), None
        parts = self.parts(x.shape[1], bits)
        mean, spread = ensemble_moments(parts.enlarge, pad(x, self.scale))
        return self._crop(mean, x), self._crop(spread, x)

    def _crop(self, y: Tensor, x: Tensor) -> Tensor:
        """``y`` without what the padding of ``x`` made."""
        height, width = (enlarged(side, self.scale) for side in x.shape[-2:])
        return y[..., :height, :width]

    def _flat(self, channels: int, dtype: torch.dtype) -> FlatField | None:
        """The flat field of the network for images of ``channels`` channels, measured once and kept."""
        if (channels, dtype) not in self._flats:
            if isinstance(self.model, Compiled):
                flat = self.model.flat(channels, dtype)
            else:
                flat = FlatField.measure(self.model, self.scale, channels, dtype)
            if flat is not None and self.options.ensemble:
                flat = flat.averaged()
            self._flats[channels, dtype] = flat
        return self._flats[channels, dtype]

    def _path(self, channels: int) -> nn.Module | None:
        """The path of the network for images of ``channels`` channels, folded once and kept."""
        if channels not in self._paths:
            path = self.model.path(self.scale, channels)
            self._paths[channels] = None if path is None else fold(path)
        return self._paths[channels]
