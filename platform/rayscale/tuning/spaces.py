"""Search spaces: keys of the training configuration, and what may be drawn for each.

A range is written as text: ``log:1e-5:1e-2`` and ``uniform:0:1`` (a third number is the points of a grid), ``int:4:16``
(a third number is the step), ``choice:0.1,0.5,1``; ``... if KEY=VALUE`` draws only where another key has that value. A file
holds the same texts: ``optimizer.lr: log:1e-5:1e-2``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import yaml

from rayscale.errors import ConfigError
from rayscale.training.config import merge

Values = dict[str, Any]

_FORMS = (
    "log:LOW:HIGH[:POINTS], uniform:LOW:HIGH[:POINTS], int:LOW:HIGH[:STEP] or choice:A,B,..., each with an optional "
    "` if KEY=VALUE`"
)

SPACES: dict[str, dict[str, str]] = {
    # Residual scaling: Lim et al. 2017, section 3.3, take 0.1 for wide trunks.
    "edsr": {"model.residual_scaling": "choice:0.1,0.2,0.5,1", "optimizer.lr": "log:5e-5:2e-3"},
    "lr": {"optimizer.lr": "log:5e-5:2e-3"},
}
"""The spaces that have names."""


class Drawer(Protocol):
    """What draws: a trial of Optuna, or ``samplers.Draws``."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number from ``low`` to ``high``; with ``log`` its logarithm is uniform."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        """One of ``low``, ``low + step``, ... up to ``high``."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of ``choices``."""


@dataclass(frozen=True)
class Parameter:
    """What may be drawn for one key.

    Attributes:
        key: ``section.key`` of the training configuration.
        kind: ``log``, ``uniform``, ``int`` or ``choice``.
        low, high: the ends, which are drawn too.
        count: the step of ``int``, the points of a grid of ``log`` and ``uniform``; None where that was left open.
        choices: of ``choice``, plain values.
        condition: ``(key, value)`` of another parameter, without which this one is not drawn.
        text: the range as it was written.
    """

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    count: int | None = None
    choices: tuple[Any, ...] = ()
    condition: tuple[str, Any] | None = None
    text: str = ""

    @classmethod
    def parse(cls, key: str, text: str) -> Parameter:
        """The parameter of its text form; ConfigError names what is wrong."""
        ranged, _, condition = (part.strip() for part in text.partition(" if "))
        kind, _, rest = ranged.partition(":")
        made = cls(key, kind, condition=_condition(key, condition), text=text)
        try:
            if kind == "choice":
                choices = tuple(yaml.safe_load(part) for part in rest.split(",") if part.strip())
                if len(set(choices)) != len(choices) or not choices:
                    raise ValueError("a choice needs values, each once")
                return replace(made, choices=choices)
            low, high, *more = (_number(part) for part in rest.split(":"))
            if kind not in ("log", "uniform", "int") or len(more) > 1:
                raise ValueError(f"expected {_FORMS}")
            _check_ends(kind, low, high, more)
            return replace(made, low=low, high=high, count=int(more[0]) if more else None)
        except (ValueError, TypeError, yaml.YAMLError) as error:
            reason = error if "unpack" not in str(error) else f"expected {_FORMS}"
            raise ConfigError(f"the range {text!r} of {key}: {reason}") from None

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether it is drawn beside ``values``."""
        if self.condition is None:
            return True
        key, value = self.condition
        return key in values and values[key] == value

    def draw(self, drawer: Drawer) -> Any:
        """A value of the range."""
        if self.kind == "choice":
            return drawer.suggest_categorical(self.key, list(self.choices))
        if self.kind == "int":
            step = self.count or 1
            return drawer.suggest_int(self.key, int(self.low), self._last(step), step=step)
        return drawer.suggest_float(self.key, self.low, self.high, log=self.kind == "log")

    def grid(self) -> list[Any]:
        """Every value of a grid; ConfigError where its points were left open."""
        if self.kind == "choice":
            return list(self.choices)
        if self.kind == "int":
            return list(range(int(self.low), int(self.high) + 1, self.count or 1))
        if self.count is None:
            example = f"{self.kind}:{self.low:g}:{self.high:g}:5"
            raise ConfigError(
                f"the range {self.text!r} of {self.key} has no points for a grid; give their number, as in {example}"
            )
        shares = [index / max(1, self.count - 1) for index in range(self.count)]
        if self.kind == "log":
            ratio = self.high / self.low
            return [float(f"{self.low * ratio**share:.6g}") for share in shares]
        return [float(f"{self.low + (self.high - self.low) * share:.6g}") for share in shares]

    @property
    def is_finite(self) -> bool:
        """Whether it has a list of values."""
        return self.kind in ("choice", "int")

    def _last(self, step: int) -> int:
        """The largest that the steps from ``low`` reach."""
        return int(self.low) + (int(self.high) - int(self.low)) // step * step


Space = tuple[Parameter, ...]


def make_space(named: str, ranges: Iterable[str] = ()) -> Space:
    """The space of a name or a file (YAML, JSON, TOML; a path or ``s3://``), with ``KEY=RANGE`` texts added to it.

    With ranges and no name (an empty one), the ranges alone. A parameter comes after the one that it depends on.

    Raises ConfigError for an unknown name, an unknown key, a range that cannot be read, and conditions in a circle.
    """
    texts: dict[str, Any] = {}
    if named in SPACES:
        texts = dict(SPACES[named])
    elif "." in named or "/" in named:
        texts = dict(_flat(merge(named, ())))
    elif named:
        raise ConfigError(
            f"unknown space {named!r}; use one of {', '.join(SPACES)}, a file, or ranges (search)"
        )
    for item in ranges:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"{item!r} is not of the form KEY=RANGE; RANGE is {_FORMS}")
        texts[key.strip()] = text.strip()
    if not texts:
        raise ConfigError("there is nothing to search; give a range (search) or a space")
    return _ordered([Parameter.parse(key, str(text)) for key, text in texts.items()])


def draw(space: Space, drawer: Drawer) -> Values:
    """A value for every parameter that applies."""
    values: Values = {}
    for parameter in space:
        if parameter.applies(values):
            values[parameter.key] = parameter.draw(drawer)
    return values


def grid(space: Space) -> list[Values]:
    """Every combination of the grids of the parameters that apply, the last parameter running fastest."""
    rows: list[Values] = [{}]
    for parameter in space:
        rows = [
            {**row, **({parameter.key: value} if parameter.applies(row) else {})}
            for row in rows
            for value in (parameter.grid() if parameter.applies(row) else [None])
        ]
    return rows


def describe(space: Space) -> dict[str, str]:
    """The ranges as texts by key: what a tracker stores, and what names a sweep."""
    return {parameter.key: parameter.text for parameter in space}


def _ordered(parameters: list[Parameter]) -> Space:
    """In the order of their conditions."""
    keys = {parameter.key for parameter in parameters}
    placed: list[Parameter] = []
    while left := [parameter for parameter in parameters if parameter not in placed]:
        done = {parameter.key for parameter in placed}
        ready = [each for each in left if each.condition is None or each.condition[0] in done]
        if not ready:
            lone = left[0]
            assert lone.condition is not None
            other = lone.condition[0]
            reason = "conditions go in a circle" if other in keys else f"{other} is not searched"
            raise ConfigError(f"the range {lone.text!r} of {lone.key}: {reason}")
        placed += ready
    return tuple(placed)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``section.key`` of a file that nests its sections, or does not."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _condition(key: str, text: str) -> tuple[str, Any] | None:
    if not text:
        return None
    other, equals, value = (part.strip() for part in text.partition("="))
    if not (other and equals and value):
        raise ConfigError(f"the condition {text!r} of {key} is not of the form KEY=VALUE")
    return other, yaml.safe_load(value)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def _check_ends(kind: str, low: float, high: float, more: list[float]) -> None:
    if not low < high:
        raise ValueError(f"{low:g} is not below {high:g}")
    if kind == "log" and low <= 0:
        raise ValueError(f"a logarithm needs ends above 0, not {low:g}")
    whole = [low, high, *more] if kind == "int" else more
    if any(number != int(number) for number in whole) or any(number < 1 for number in more):
        raise ValueError("a step and a number of points are whole and above 0, as are ends of int")
