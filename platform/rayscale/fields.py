"""What a user may choose, described once: the command line, HTTP and the docs show each choice from here.

A choice is a field of a frozen dataclass, made by :func:`choice`. Nothing here knows which choices there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import Any, get_args

from rayscale.errors import ConfigError, closest_first, shown

_KEY = "rayscale.choice"
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_BOOLEAN = "true or false"


@dataclass(frozen=True)
class Choice:
    """How one value is asked for.

    Attributes:
        name: of the field, of the query parameter, and with dashes of the option of a command.
        help: one or two sentences for the user.
        default: what holds when nothing is said.
        kind: ``bool``, ``int``, ``float`` or ``str``, the type of what a command line or a query carries.
        choices: the only values, where they are words.
        minimum: the least number.
        maximum: the largest number.
        metavar: how the text form is named, such as ``BLACK..WHITE``.
        read: makes the value of its text form, where that is not just a number or a word; raises ConfigError.
        write: the inverse of ``read``.
        letter: the short option of commands.
        shapes: whether the values of an output depend on it, so that it belongs to recipes and provenance.
    """

    name: str
    help: str
    default: Any
    kind: type
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    metavar: str | None = None
    read: Callable[[str], Any] | None = None
    write: Callable[[Any], str] | None = None
    letter: str | None = None
    shapes: bool = True

    def parse(self, text: Any) -> Any:
        """The value of a text form, or of JSON; ConfigError names the value and what it must be."""
        if text is None or (self.kind is not bool and text == ""):
            return self.default
        if isinstance(text, str):
            if self.read is not None:
                return self.read(text)
            text = self._convert(text)
        return self.check(text)

    def check(self, value: Any) -> Any:
        """``value``, a number as Python's own; ConfigError for another type, a word or a number that is not possible."""
        if value is None and self.default is None:
            return None
        if getattr(value, "shape", None) == ():  # a scalar of numpy or torch
            value = value.item()
        if self.choices:
            if value not in self.choices:
                raise self._error(f"one of {', '.join(self.choices)}", value)
        elif self.read is None:
            value = self._check_kind(value)
        if not self._contains(value):
            raise self._error(self.range, value)
        return value

    @property
    def range(self) -> str:
        """The numbers that are possible, in words; "" where all are."""
        words = (("at least", self.minimum), ("at most", self.maximum))
        return " and ".join(f"{word} {end:g}" for word, end in words if end is not None)

    def _contains(self, value: Any) -> bool:
        """Whether a number lies in the range, which NaN never does."""
        return (self.minimum is None or value >= self.minimum) and (
            self.maximum is None or value <= self.maximum
        )

    def _error(self, needed: str, value: Any) -> ConfigError:
        return ConfigError(f"{self.name} must be {needed}, not {shown(value)}")

    def _check_kind(self, value: Any) -> Any:
        if self.kind is bool:
            if not isinstance(value, bool):
                raise self._error(_BOOLEAN, value)
        elif self.kind in (int, float):
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or (self.kind is int and value % 1 != 0):
                raise self._error(self._noun, value)
            if self.kind is int or not isinstance(value, int):  # 2 stays 2 where 2.0 would do
                value = self.kind(value)
        return value

    @property
    def _noun(self) -> str:
        return "a whole number" if self.kind is int else "a number"

    def _convert(self, text: str) -> Any:
        if self.kind is bool:
            if text.lower() not in _TRUE + _FALSE:
                raise self._error(_BOOLEAN, text)
            return text.lower() in _TRUE
        try:
            return self.kind(text)
        except ValueError:
            raise self._error(self._noun, text) from None


def choice(default: Any, help: str, kind: type = str, **more: Any) -> Any:
    """A dataclass field that users choose; arguments as in :class:`Choice`, ``choices`` also as a ``Literal``."""
    literal = more.get("choices", ())
    more["choices"] = literal if isinstance(literal, tuple) else get_args(literal)
    described = Choice(name="", help=help, default=default, kind=kind, **more)
    return dataclasses.field(default=default, metadata={_KEY: described})


def choices_of(owner: Any) -> tuple[Choice, ...]:
    """The choices of a dataclass or of one of its values, in their order."""
    return _describe(owner if isinstance(owner, type) else type(owner))


@cache
def _describe(owner: Any) -> tuple[Choice, ...]:
    """Once for each class: a service reads the options of every request."""
    described = [(each.name, each.metadata.get(_KEY)) for each in dataclasses.fields(owner)]
    return tuple(
        dataclasses.replace(each, name=name) for name, each in described if each is not None
    )


def check_choices(value: Any) -> None:
    """Raise ConfigError for the first choice of a dataclass value that is not possible; for ``__post_init__``.

    Scalars of numpy and torch become numbers of Python.
    """
    for each in choices_of(value):
        object.__setattr__(value, each.name, each.check(getattr(value, each.name)))


def check_counts(**counts: int | None) -> None:
    """Raise ConfigError for a count that is not a whole number, or below 1; None passes."""
    for name, value in counts.items():
        Choice(name, "", None, int, minimum=1).check(value)


def check_names(owner: Any, names: Iterable[str]) -> None:
    """Raise ConfigError for the first name that is not a choice of a dataclass, with those that it may be meant as first."""
    known = [each.name for each in choices_of(owner)]
    for name in names:
        if name not in known:
            others = ", ".join(closest_first(name, known))
            raise ConfigError(f"{name[:80]!r} is not an option; there are {others}")


def parse_choices(owner: type, texts: Mapping[str, Any]) -> dict[str, Any]:
    """Text forms by name to the arguments of ``owner``; names that it does not have are an error of the caller."""
    known = {each.name: each for each in choices_of(owner)}
    return {name: known[name].parse(text) for name, text in texts.items()}


def to_texts(value: Any) -> dict[str, Any]:
    """The choices that differ from the defaults in their text forms, from which ``parse_choices`` makes them again."""
    texts = {}
    for each in choices_of(value):
        chosen = getattr(value, each.name)
        if chosen != each.default:
            texts[each.name] = each.write(chosen) if each.write else chosen
    return texts
