"""The table of systems: their names, and how to build their networks.

A new system of the field is one module that registers itself (``rayscale.models.system``). Registered *trained* models are
the business of ``rayscale.registry``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayscale.errors import ConfigError, NotFoundError, closest_first
from rayscale.models import aplus, edsr, interpolation, mdsr, meta, srcnn, srresnet, vdsr
from rayscale.models.network import SuperResolver
from rayscale.models.spec import ModelSpec
from rayscale.models.system import SYSTEMS, System, load_entry_points

_MODULES = (interpolation, aplus, srcnn, vdsr, srresnet, edsr, mdsr, meta)
"""Those whose systems come with rayscale, in the order in which they are shown; importing them has registered these."""


def systems() -> Mapping[str, System]:
    """All systems by name: those of rayscale, then those of other packages."""
    load_entry_points()
    names = [module.__name__ for module in _MODULES]
    ours = [each for each in SYSTEMS.values() if each.network.__module__ in names]
    ours.sort(key=lambda each: names.index(each.network.__module__))
    return {each.name: each for each in ours} | SYSTEMS


def model_names() -> list[str]:
    """Names of all systems, in the order of the table."""
    return list(systems())


def find_system(name: str) -> System:
    """The entry of ``name``; NotFoundError lists the names, the closest first."""
    table = systems()
    if name in table:
        return table[name]
    names = ", ".join(closest_first(name, table))
    raise NotFoundError(f"there is no model {name!r}; the models are {names}")


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


def _list(scales: Sequence[int]) -> str:
    return ", ".join(map(str, scales))
