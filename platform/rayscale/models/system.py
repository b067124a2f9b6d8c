"""A system of the field: a network under the name by which papers know it, with its defaults and its recipes.

A network's module registers it with :func:`system`, and that is all: commands, configurations, training, evaluation,
batch and service find it by its name. Other packages bring systems of their own by the entry point ``rayscale.systems``::

    [project.entry-points."rayscale.systems"]
    mine = "my_package.network"

The module of an entry point is imported when the systems are first asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from rayscale.errors import ConfigError

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver

logger = logging.getLogger(__name__)

Values = dict[str, Any]
"""Settings of training by ``section.key``, in which a system differs from the defaults, those of EDSR."""

ENTRY_POINTS = "rayscale.systems"

T = TypeVar("T", bound="type[SuperResolver]")


@dataclass(frozen=True)
class System:
    """One entry of the table.

    Attributes:
        name: as in papers, and as users type it.
        network: its class.
        summary: one line, with the source.
        defaults: fields of ``ModelSpec``.
        options: those fields that ``create_model`` may override.
        scales: that it can be built for.
        multiscale: whether one network serves all ``scales``; another is built for one of them.
        channels: what it is built for unless told: 1 where the network sees luma alone.
        recipes: how it is trained, as published (``paper``), and within hours on a CPU (``short``); empty for what no
            gradient trains.
        pretraining: what a generator starts from that is trained against a discriminator; None for all others.
    """

    name: str
    network: type[SuperResolver]
    summary: str
    defaults: Values = field(default_factory=dict)
    options: tuple[str, ...] = ("filters", "blocks", "value_range", "mean")
    scales: tuple[int, ...] = (2, 3, 4)
    multiscale: bool = False
    channels: int = 3
    recipes: Mapping[str, Values] = field(default_factory=dict)
    pretraining: str | None = None

    @property
    def is_adversarial(self) -> bool:
        """Whether there is a stage with a discriminator."""
        return self.pretraining is not None


SYSTEMS: dict[str, System] = {}
"""By name. ``models.systems.systems()`` is the complete table."""


def system(name: str, summary: str, **facts: Any) -> Callable[[T], T]:
    """A decorator of a network's class that registers it; arguments as in :class:`System`.

    Raises ConfigError for a name that another class has; a module that is loaded again registers its own again.
    """

    def register(network: T) -> T:
        other = SYSTEMS.get(name)
        if other is not None and _place(other.network) != _place(network):
            raise ConfigError(
                f"the system {name!r} is {_place(other.network)} already; {_place(network)} needs another name"
            )
        SYSTEMS[name] = System(name, network, summary, **facts)
        return network

    return register


def _place(network: type) -> str:
    """Where a class is defined: the same again after its module was loaded once more."""
    return f"{network.__module__}.{network.__qualname__}"


@cache
def load_entry_points() -> None:
    """Import what other packages bring. One that fails is named in the log and does not hinder the others."""
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            logger.warning(
                "the systems of %s (%s) could not be loaded: %s", entry.name, entry.value, error
            )


# Parts that recipes of several systems have in common.

EDSR_OPTIONS = ("filters", "blocks", "residual_scaling", "value_range", "mean")
UNSHIFTED_OPTIONS = ("filters", "blocks", "value_range")

INTEGER_SCALES: Values = {"model.scale": None, "model.scales": (2, 3, 4)}
"""MDSR and VDSR: one network."""

TENTHS: Values = {
    "model.scale": None,
    "model.scales": tuple(tenths / 10 for tenths in range(11, 41)),
}
"""Meta-SR: 1.1 to 4.0."""

SHORT: Values = {
    "data.patch": 24,
    "data.batch": 8,
    "optimizer.lr": 5e-4,
    "optimizer.schedule": "cosine",
    "optimizer.ema": 0.999,
    "optimizer.steps": 20_000,
}
"""On a CPU small patches and many updates win (docs/lab.md). An eighth of the pixels per step makes eight times the steps,
and with a higher learning rate that falls in a cosine and a running mean of the weights, it gains more than large
batches do."""

GUARDED: Values = {"guard.spike": 10.0}
"""GANs leave their equilibrium now and then; wide and deep networks can diverge."""
