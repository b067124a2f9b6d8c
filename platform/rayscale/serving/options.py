"""The options of an upscale as query parameters, from their one description in ``rayscale.options``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from fastapi import Query
from fastapi.dependencies.models import Dependant

from rayscale.errors import ConfigError
from rayscale.fields import Choice, choices_of
from rayscale.options import Options
from rayscale.serving.errors import BadParameterError

LARGEST_SCALE = 16
_MOST_CHARS = 64


def query_options(defaults: Options) -> Callable[..., Options]:
    """A dependency of FastAPI that reads the options of a request; what it does not name is as in ``defaults``.

    Its BadParameterError names the value and what it must be.
    """

    def options(**given: Any) -> Options:
        texts = {name: value for name, value in given.items() if value is not None}
        try:
            return Options.parse(**{**defaults.to_texts(), **texts})
        except ConfigError as error:
            raise BadParameterError(str(error)) from None

    parameters = [_parameter(each) for each in choices_of(Options)]
    options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return options


def _parameter(choice: Choice) -> inspect.Parameter:
    limits: dict[str, Any] = {}
    if choice.name == "scale":
        limits = {"gt": 1, "le": LARGEST_SCALE}
    elif choice.minimum is not None:
        limits = {"ge": choice.minimum}
    elif choice.kind is str:
        limits = {"max_length": _MOST_CHARS}
    if choice.choices:
        limits["json_schema_extra"] = {"enum": list(choice.choices)}
    query = Query(description=choice.help, **limits)
    return inspect.Parameter(
        choice.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[choice.kind | None, query],
    )


def parameters_of(dependant: Dependant) -> Iterable[str]:
    """Names of the query parameters of a route, those of its dependencies included."""
    for field in dependant.query_params:
        yield field.alias
    for inner in dependant.dependencies:
        yield from parameters_of(inner)
