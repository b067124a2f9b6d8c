"""The table of systems: their names, their defaults, and how to build them.

A new system of the field is one ``System`` entry here. Registered *trained* models are the business of
``rayscale.registry``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rayscale.errors import ConfigError, NotFoundError
from rayscale.models.aplus import APlus
from rayscale.models.builtin import bundled_names, read_spec
from rayscale.models.edsr import EDSR
from rayscale.models.interpolation import Bicubic, Bilinear
from rayscale.models.mdsr import MDSR
from rayscale.models.network import SuperResolver
from rayscale.models.spec import ModelSpec


@dataclass(frozen=True)
class System:
    """One entry of the table.

    ``defaults`` are fields of ``ModelSpec``; ``options`` names those that ``create_model`` may override.
    A ``multiscale`` network serves all ``scales`` at once, another is built for one of them.
    """

    name: str
    network: Callable[[ModelSpec], SuperResolver]
    summary: str
    defaults: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ("filters", "blocks", "value_range", "mean")
    scales: tuple[int, ...] = (2, 3, 4)
    multiscale: bool = False


_EDSR_OPTIONS = ("filters", "blocks", "residual_scaling", "value_range", "mean")

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
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
            {"channels": 1, "filters": 30, "blocks": 1024, "value_range": 1.0},
            options=("filters", "blocks", "value_range"),
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
    scale: int | None = None,
    channels: int | None = None,
    filters: int | None = None,
    blocks: int | None = None,
    residual_scaling: float | None = None,
    value_range: float | None = None,
    mean: Sequence[float] | None = None,
) -> SuperResolver:
    """A network with fresh weights (PyTorch's initialisation, as in the official code).

    Args:
        name: one of ``model_names()``.
        scale: the scale to build for; a network that serves several at once serves them all, and ``scale``
            only has to be one of them or None.
        channels: image channels; by default 3, or 1 for a system that sees luma alone.
        filters, blocks, residual_scaling, value_range, mean: in place of the system's defaults where not
            None; see ``ModelSpec``.

    Raises:
        NotFoundError: unknown name.
        ConfigError: a scale that the system does not have, or an option it does not take.
    """
    system = find_system(name)
    scales = ", ".join(map(str, system.scales))
    if scale is None and not system.multiscale:
        raise ConfigError(f"{name} is built for one scale; give one of {scales}")
    if scale is not None and scale not in system.scales:
        raise ConfigError(f"{name} has no scale {scale}; its scales are {scales}")
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
    if channels is not None:
        overrides["channels"] = channels
    return build(
        ModelSpec(
            system=name,
            scales=system.scales if system.multiscale or scale is None else (scale,),
            **{**system.defaults, **overrides},
        )
    )


def build(spec: ModelSpec) -> SuperResolver:
    """The network of a specification, with fresh weights; errors as in ``create_model``."""
    system = find_system(spec.system)
    if unknown := [scale for scale in spec.scales if scale not in system.scales]:
        raise ConfigError(
            f"{spec.system} has no scale {unknown[0]}; its scales are "
            f"{', '.join(map(str, system.scales))}"
        )
    return system.network(spec)


def describe(name: str) -> dict[str, Any]:
    """Facts about a system at its default channels, without allocating its weights.

    ``{"name", "scales": [int], "parameters": {"2": int, ...}, "halo": {"2": int, ...}, "summary", "bundled"}``;
    the halo is in LR pixels, the parameters are the numbers that training finds, ``bundled`` names the models of the
    system that come with weights.
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
        "parameters": parameters,
        "halo": halo,
        "summary": system.summary,
        "bundled": [model for model in bundled_names() if read_spec(model)[0].system == name],
    }
