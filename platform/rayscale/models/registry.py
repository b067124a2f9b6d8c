"""The table of systems: their names, their defaults, and how to build them.

A new system of the field is one ``System`` entry here. Registered *trained* models are the business of
``rayscale.registry``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rayscale.errors import ConfigError, NotFoundError
from rayscale.models.aplus import APlus
from rayscale.models.builtin import bundled_names, read_spec
from rayscale.models.edsr import EDSR
from rayscale.models.interpolation import Bicubic, Bilinear, Nearest
from rayscale.models.mdsr import MDSR
from rayscale.models.meta import MetaEDSR, MetaSRGAN
from rayscale.models.network import SuperResolver
from rayscale.models.spec import ModelSpec
from rayscale.models.srcnn import SRCNN, SRCNN955
from rayscale.models.srresnet import SRResNet
from rayscale.models.vdsr import VDSR


@dataclass(frozen=True)
class System:
    """One entry of the table.

    ``defaults`` are fields of ``ModelSpec``; ``options`` names those that ``create_model`` may override.
    A ``multiscale`` network serves all ``scales`` at once, another is built for one of them. ``channels`` is what
    it is built for unless told: 1 where the network sees luma alone.
    """

    name: str
    network: type[SuperResolver]
    summary: str
    defaults: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ("filters", "blocks", "value_range", "mean")
    scales: tuple[int, ...] = (2, 3, 4)
    multiscale: bool = False
    channels: int = 3


_EDSR_OPTIONS = ("filters", "blocks", "residual_scaling", "value_range", "mean")
_UNSHIFTED_OPTIONS = ("filters", "blocks", "value_range")

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System(
            "nearest",
            Nearest,
            "nearest neighbour: pixels repeated, for class maps and bit fields",
            {"filters": 0, "blocks": 0},
            options=("value_range",),
            multiscale=True,
        ),
        System(
            "bilinear",
            Bilinear,
            "linear interpolation",
            {"filters": 0, "blocks": 0},
            options=("value_range",),
            multiscale=True,
        ),
        System(
            "bicubic",
            Bicubic,
            "cubic interpolation as in MATLAB, the usual baseline",
            {"filters": 0, "blocks": 0},
            options=("value_range",),
            multiscale=True,
        ),
        System(
            "aplus",
            APlus,
            "A+, 1024 anchored regressors from 30 features, luma only (Timofte et al. 2014)",
            {"filters": 30, "blocks": 1024, "value_range": 1.0},
            options=("filters", "blocks", "value_range"),
            channels=1,
        ),
        System(
            "srcnn",
            SRCNN,
            "SRCNN 9-1-5 of 64 and 32 filters, on luma (Dong et al. 2014)",
            {"filters": 64, "blocks": 0, "value_range": 1.0},
            options=("filters", "value_range"),
            channels=1,
        ),
        System(
            "srcnn-955",
            SRCNN955,
            "SRCNN 9-5-5, the best of the paper, on luma (Dong et al. 2015)",
            {"filters": 64, "blocks": 0, "value_range": 1.0},
            options=("filters", "value_range"),
            channels=1,
        ),
        System(
            "vdsr",
            VDSR,
            "VDSR, one network for all scales, 20 layers of 64 filters, on luma (Kim et al. 2016)",
            {"filters": 64, "blocks": 20, "value_range": 1.0},
            options=_UNSHIFTED_OPTIONS,
            multiscale=True,
            channels=1,
        ),
        System(
            "srresnet",
            SRResNet,
            "SRResNet, 16 blocks of 64 filters with batch normalisation (Ledig et al. 2017)",
            {"filters": 64, "blocks": 16, "value_range": 1.0},
            options=_UNSHIFTED_OPTIONS,
        ),
        System(
            "srgan",
            SRResNet,
            "SRGAN: SRResNet trained against a discriminator (Ledig et al. 2017)",
            {"filters": 64, "blocks": 16, "value_range": 1.0},
            options=_UNSHIFTED_OPTIONS,
        ),
        System(
            "edsr-baseline",
            EDSR,
            "EDSR, 16 blocks of 64 filters (Lim et al. 2017)",
            {"filters": 64, "blocks": 16},
            options=_EDSR_OPTIONS,
        ),
        System(
            "edsr",
            EDSR,
            "EDSR of the paper, 32 blocks of 256 filters, residual scaling 0.1",
            {"filters": 256, "blocks": 32, "residual_scaling": 0.1},
            options=_EDSR_OPTIONS,
        ),
        System(
            "mdsr-baseline",
            MDSR,
            "MDSR, one network for x2, x3 and x4, 16 blocks of 64 filters",
            {"filters": 64, "blocks": 16},
            multiscale=True,
        ),
        System(
            "mdsr",
            MDSR,
            "MDSR of the paper, one network for x2, x3 and x4, 80 blocks of 64 filters",
            {"filters": 64, "blocks": 80},
            multiscale=True,
        ),
        System(
            "meta-edsr",
            MetaEDSR,
            "EDSR-baseline's trunk with meta-upscale, one network for all scales (after Hu et al. 2019)",
            {"filters": 64, "blocks": 16},
            options=_EDSR_OPTIONS,
            multiscale=True,
        ),
        System(
            "meta-srgan",
            MetaSRGAN,
            "Meta-SRGAN for one-channel scans, one network for all scales, 5 blocks (Tan et al. 2020)",
            {"filters": 64, "blocks": 5, "value_range": 1.0},
            options=_UNSHIFTED_OPTIONS,
            multiscale=True,
            channels=1,
        ),
    )
}


def model_names() -> list[str]:
    """Names of all systems, in the order of the table."""
    return list(SYSTEMS)


def find_system(name: str) -> System:
    """The entry of ``name``; NotFoundError lists the names, the closest first."""
    if name in SYSTEMS:
        return SYSTEMS[name]
    close = difflib.get_close_matches(name, SYSTEMS, n=3)
    names = close + [other for other in SYSTEMS if other not in close]
    raise NotFoundError(f"there is no model {name!r}; the models are {', '.join(names)}")


def create_model(
    name: str,
    *,
    scale: float | None = None,
    channels: int | None = None,
    filters: int | None = None,
    blocks: int | None = None,
    residual_scaling: float | None = None,
    value_range: float | None = None,
    mean: Sequence[float] | None = None,
) -> SuperResolver:
    """A network with fresh weights (of its paper's initialisation, else PyTorch's).

    Args:
        name: one of ``model_names()``.
        scale: the scale to build for; a network that serves several at once serves them all, and ``scale``
            only has to be one of them or None.
        channels: image channels; the system's own by default.
        filters, blocks, residual_scaling, value_range, mean: in place of the system's defaults where not
            None; see ``ModelSpec``.

    Raises:
        NotFoundError: unknown name.
        ConfigError: a scale that the system does not have, or an option it does not take.
    """
    system = find_system(name)
    scales = system.scales
    if not system.multiscale:
        if scale is None:
            raise ConfigError(f"{name} is built for one scale; give one of {_list(scales)}")
        if scale not in scales:
            raise ConfigError(f"{name} has no scale {scale:g}; its scales are {_list(scales)}")
        scales = (int(scale),)
    given = {
        "filters": filters,
        "blocks": blocks,
        "residual_scaling": residual_scaling,
        "value_range": value_range,
        "mean": None if mean is None else tuple(mean),
    }
    overrides = {option: value for option, value in given.items() if value is not None}
    if refused := sorted(set(overrides) - set(system.options)):
        raise ConfigError(
            f"{name} takes no {', '.join(refused)}; its options are {', '.join(system.options)}"
        )
    model = build(
        ModelSpec(
            system=name,
            scales=scales,
            channels=system.channels if channels is None else channels,
            **{**system.defaults, **overrides},
        )
    )
    if scale is not None:
        model.resolve_scale(scale)
    return model


def build(spec: ModelSpec) -> SuperResolver:
    """The network of a specification, with fresh weights; errors as in ``create_model``."""
    system = find_system(spec.system)
    if unknown := [scale for scale in spec.scales if scale not in system.scales]:
        raise ConfigError(
            f"{spec.system} has no scale {unknown[0]}; its scales are {_list(system.scales)}"
        )
    return system.network(spec)


def describe(name: str) -> dict[str, Any]:
    """Facts about a system at its own number of channels, without allocating its weights.

    ``{"name", "scales": [int], "scale_range": [float, float] or None, "channels": int, "parameters": {"2": int, ...},
    "halo": {"2": int, ...}, "summary", "bundled": [str]}``; the halo is in LR pixels, the parameters are the numbers that
    training finds, ``bundled`` names the models of the system that come with weights. Every scale above the
    first and up to the second number of ``scale_range`` is served.
    """
    system = find_system(name)
    parameters: dict[str, int] = {}
    halo: dict[str, int] = {}
    for scale in system.scales:
        with torch.device("meta"):
            model = create_model(name, scale=scale)
        parameters[str(scale)] = sum(p.numel() for p in model.parameters())
        halo[str(scale)] = model.halo(scale)
    return {
        "name": name,
        "scales": list(system.scales),
        "scale_range": list(system.network.scale_range) if system.network.scale_range else None,
        "channels": system.channels,
        "parameters": parameters,
        "halo": halo,
        "summary": system.summary,
        "bundled": [model for model in bundled_names() if read_spec(model)[0].system == name],
    }


def _list(scales: Sequence[int]) -> str:
    return ", ".join(map(str, scales))
