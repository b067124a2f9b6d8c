"""How a system is trained: as published (``paper``), or within hours on a CPU (``short``).

A recipe holds the settings in which a system differs from the defaults of ``rayscale.training.sections``, which are those of
EDSR. It stands beside the network, in its module of ``rayscale.models``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayscale.errors import ConfigError


def trained_systems() -> list[str]:
    """The systems that can be trained. A+ has recipes of its own, in ``rayscale.training.aplus``."""
    from rayscale.models.systems import systems

    return [name for name, each in systems().items() if each.recipes or name == "aplus"]


def recipe_of(system: str, recipe: object) -> Mapping[str, Any]:
    """``section.key`` and value of a recipe; empty for a system without any, whose error comes with the model.

    Raises ConfigError where the system has recipes, but not this one.
    """
    from rayscale.models.systems import systems

    known = systems().get(system) if isinstance(system, str) else None
    if known is None or not known.recipes:
        return {}
    if recipe not in known.recipes:
        raise ConfigError(
            f"recipe: {recipe!r} is not a recipe; the recipes are {', '.join(known.recipes)}"
        )
    return known.recipes[str(recipe)]
