"""The errors a user may see: each names the value, the limit and the way out.

One table per entry point maps them onward (exit codes in ``rayscale.cli``, HTTP status in ``rayscale.serving``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import ClassVar

_MOST_SHOWN = 80


class RayscaleError(Exception):
    """Base of every error whose message is meant for the user; printed without a traceback."""

    code: ClassVar[str] = "error"


class InputError(RayscaleError):
    """Content that cannot be used: damaged, empty, or of the wrong shape."""

    code = "bad_image"


class UnsupportedError(InputError):
    """Content of a kind that is not handled (a container, a pixel type, a layout)."""

    code = "unsupported_media"


class TooLargeError(InputError):
    """Content beyond a limit; the message names the size and the setting that limits it."""

    code = "too_large"


class NotFoundError(RayscaleError):
    """An object, a file, a model or a version that does not exist."""

    code = "not_found"


class ConfigError(RayscaleError):
    """Wrong usage or configuration."""

    code = "bad_configuration"


class OutOfMemoryError(RayscaleError):
    """Work that does not fit into memory, even in small parts."""

    code = "out_of_memory"


class NonFiniteOutputError(RayscaleError):
    """A network whose result holds values that are not finite, so there is no picture to return."""

    code = "non_finite_output"

    def __init__(self) -> None:
        super().__init__(
            "the network produced non-finite values for this image; its weights are damaged or were trained on another "
            "value range: use another model or version"
        )

    def __reduce__(self) -> tuple[type[NonFiniteOutputError], tuple[()]]:
        return type(self), ()


class StorageError(RayscaleError):
    """A store that is unreachable, denies access, or returned damaged bytes."""

    code = "storage"


def closest_first(name: str, known: Iterable[str]) -> list[str]:
    """``known``, those that ``name`` may have been meant as at the front: for the messages of unknown names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    return close + [other for other in known if other not in close]


def shown(value: object) -> str:
    """A value that somebody gave, as messages show it: cut where it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def quantity(number: int, noun: str) -> str:
    """So many of something.

    >>> quantity(1, "channel"), quantity(3, "channel")
    ('1 channel', '3 channels')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def expect(value: object, kind: type | tuple[type, ...], needed: str) -> None:
    """Raise ConfigError, which says what is needed, for a value of another kind: for arguments of the public surface."""
    if not isinstance(value, kind):
        raise ConfigError(f"expected {needed}, not {shown(value)}")


def without_passwords(text: str) -> str:
    """A text with every password in a URI replaced: what other libraries say of an error may quote one."""
    return re.sub(r"(://)[^/\s@]*@", r"\1***@", text)
