"""A network whose layers another library computes, as a network like all others: same halo, same radiometry, run by tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from rayscale.errors import ConfigError, UnsupportedError
from rayscale.inference.engines import Engine, OnnxRuntime, OpenVino, to_onnx, to_openvino
from rayscale.inference.flatfield import FlatField
from rayscale.models.network import SuperResolver
from rayscale.options import Backend

Flats = Callable[[int, torch.dtype], FlatField | None]
"""The flat field for a number of channels and a type."""


class Compiled(SuperResolver):
    """The network ``like`` at one scale, its core computed by ``engine``.

    Args:
        like: whose layers need no weights.
        flats: what there is to know of its answers to flat images, which an engine cannot be asked for at any cost.
    """

    tile: ClassVar[int] = 384

    def __init__(self, like: SuperResolver, scale: float, engine: Engine, flats: Flats) -> None:
        super().__init__(like.spec)
        self.scale = like.resolve_scale(scale)
        self.engine = engine.name
        self.flat = flats
        for fact in ("any_channels", "keeps_means", "linear"):
            setattr(self, fact, getattr(like, fact))
        self._core = _Core(engine)
        # Bound methods: as a submodule its weights would move to devices and into files.
        self._around, self._halo = like.around, like.halo

    @property
    def scales(self) -> tuple[int, ...]:
        return (int(self.scale),) if self.scale == int(self.scale) else ()

    @property
    def default_scale(self) -> float:  # type: ignore[override]
        return self.scale

    def resolve_scale(self, scale: float | None) -> float:
        if scale is not None and scale != self.scale:
            raise ConfigError(
                f"this {self.spec.system} is for {self.engine} at x{self.scale:g} alone, not x{scale:g}; export it at that scale"
            )
        return self.scale

    def enlarge(self, x: Tensor, scale: float) -> Tensor:
        y: Tensor = self._around(self._core, scale, x.shape[1])(x)
        return y

    def halo(self, scale: float) -> int:
        return self._halo(self.resolve_scale(scale))


class _Core(nn.Module):
    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def forward(self, x: Tensor) -> Tensor:
        return self._engine(x)


def core_of(model: SuperResolver, scale: float, purpose: str) -> nn.Module:
    """The core of a network; UnsupportedError for one whose work is not layers alone."""
    core = model.core(scale)
    if core is None:
        raise UnsupportedError(
            f"{model.spec.system} is not made of layers alone, so there is no {purpose} of it; edsr, mdsr, srresnet, vdsr and "
            "srcnn are"
        )
    return core


def needs_cpu(model: SuperResolver, backend: Backend) -> bool:
    """Whether the network is computed by an engine, all of which are on the CPU."""
    return isinstance(model, Compiled) or backend not in ("auto", "torch")


def compile_network(
    model: SuperResolver, scale: float, backend: Backend, device: torch.device
) -> SuperResolver:
    """``model`` as ``backend`` computes it: ``auto`` is what it is already.

    Raises UnsupportedError where the backend cannot compute it or is not installed, ConfigError for an exported network,
    which has a backend of its own.
    """
    if device.type != "cpu" and needs_cpu(model, backend):
        raise ConfigError(
            f"openvino and onnxruntime compute on the CPU here, not on {device}; use the device cpu, or the backend torch"
        )
    if isinstance(model, Compiled):
        if backend not in ("auto", model.engine):
            raise ConfigError(f"these weights are a network for {model.engine}, not for {backend}")
        return model
    if backend in ("auto", "torch"):
        return model
    core = core_of(model.eval(), scale, f"network for {backend}")
    engine: Engine
    if backend == "openvino":
        engine = OpenVino(to_openvino(core, model.channels))
    else:
        engine = OnnxRuntime(to_onnx(core, model.channels))
    return Compiled(
        model,
        scale,
        engine,
        lambda channels, dtype: FlatField.measure(model, scale, channels, dtype),
    )
