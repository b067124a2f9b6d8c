"""Errors for the user that cross Ray as values: raised in a task, Ray would bury their message in a traceback, and log that."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from rayscale.errors import RayscaleError

P = ParamSpec("P")
T = TypeVar("T")


def return_error(task: Callable[P, T]) -> Callable[P, T | RayscaleError]:
    """Let ``task`` return a RayscaleError where it would raise it; :func:`raise_error` raises it on the other side."""

    @functools.wraps(task)
    def run(*args: P.args, **kwargs: P.kwargs) -> T | RayscaleError:
        try:
            return task(*args, **kwargs)
        except RayscaleError as error:
            return error

    return run


async def await_or_error(work: Awaitable[T]) -> T | RayscaleError:
    """The outcome of ``work``, or the RayscaleError that it raised."""
    try:
        return await work
    except RayscaleError as error:
        return error


def raise_error(answer: T | RayscaleError) -> T:
    """The answer of a task, or its error raised."""
    if isinstance(answer, RayscaleError):
        raise answer
    return answer
