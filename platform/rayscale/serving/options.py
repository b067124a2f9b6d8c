"""The options of an upscale as query parameters, from their one description in ``rayscale.options``."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Annotated, Any

from fastapi import Query
from fastapi.dependencies.models import Dependant
from pydantic import WithJsonSchema

from rayscale.errors import ConfigError
from rayscale.fields import Choice, check_names, choices_of
from rayscale.options import Options
from rayscale.serving.errors import BadParameterError

LARGEST_SCALE = 16
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def parse_options(
    texts: Mapping[str, Any], check: Callable[[Options], None] | None = None
) -> Options:
    """The options of a request from their text forms, or from JSON, by name; ``check`` raises ConfigError for what a route
    cannot do.

    Raises BadParameterError, which names the value and what it must be, also for a name that there is not.
    """
    try:
        check_names(Options, texts)
        for name, text in texts.items():
            if text == "":  # such as of a variable of a shell that is not set
                raise ConfigError(f"{name} is empty; give it a value, or leave it out")
        options = Options.parse(**texts)
        for each in _offered():
            each.check(getattr(options, each.name))
        if check is not None:
            check(options)
    except ConfigError as error:
        raise BadParameterError(str(error)) from None
    return options


def query_options(defaults: Options) -> Callable[..., Awaitable[Options]]:
    """A dependency of FastAPI that reads the options of a request; what it does not name is as in ``defaults``.

    Errors as in :func:`parse_options`.
    """

    async def options(
        **given: Any,
    ) -> Options:  # a plain function would take a thread for each request
        texts = {name: value for name, value in given.items() if value is not None}
        return parse_options({**defaults.to_texts(), **texts})

    parameters = [_parameter(each) for each in _offered()]
    options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return options


@cache
def _offered() -> tuple[Choice, ...]:
    """The choices, in the ranges that the service allows."""
    return tuple(
        replace(each, maximum=LARGEST_SCALE) if each.name == "scale" else each
        for each in choices_of(Options)
    )


def describe_options(without: Collection[str]) -> dict[str, Any]:
    """The schema of options as an object, for OpenAPI."""
    return {
        "type": "object",
        "properties": {
            each.name: _describe(each) for each in _offered() if each.name not in without
        },
        "additionalProperties": False,
        "description": "as the parameters of /v1/upscale",
    }


def _describe(choice: Choice) -> dict[str, Any]:
    """What a choice may be."""
    told = {
        "type": _TYPES[choice.kind],
        "minimum": choice.minimum,
        "maximum": choice.maximum,
        "enum": list(choice.choices) or None,
        "minLength": 1 if choice.kind is str and not choice.choices else None,
    }
    return {word: value for word, value in told.items() if value is not None}


def _parameter(choice: Choice) -> inspect.Parameter:
    """A text for FastAPI, so that the one check is that of the choice; for OpenAPI what the choice may be."""
    return inspect.Parameter(
        choice.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            str | None, Query(description=choice.help), WithJsonSchema(_describe(choice))
        ],
    )


def parameters_of(dependant: Dependant) -> Iterable[str]:
    """Names of the query parameters of a route, those of its dependencies included."""
    for field in dependant.query_params:
        yield field.alias
    for inner in dependant.dependencies:
        yield from parameters_of(inner)
