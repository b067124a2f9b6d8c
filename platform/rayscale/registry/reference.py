"""The grammar of references to registered models: ``NAME``, ``NAME@ALIAS`` or ``NAME/VERSION``, never a path or a URI."""

from __future__ import annotations

import re

from rayscale.errors import ConfigError
from rayscale.models.builtin import builtin_names

FORMS = "NAME, NAME@ALIAS or NAME/VERSION"

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_ALIAS = r"[A-Za-z][A-Za-z0-9_.-]{0,63}"
_REFERENCE = re.compile(rf"({_NAME})(?:@({_ALIAS})|/([1-9][0-9]{{0,8}}))?")
PATTERN, NAME_PATTERN = f"^{_REFERENCE.pattern}$", f"^{_NAME}$"
"""Of references and of names alone, for descriptions of interfaces."""

_RESERVED_ALIAS = re.compile(r"latest|v[0-9]+", re.IGNORECASE)  # MLflow's own rule


def parse_reference(text: str) -> tuple[str, str | None, str | None] | None:
    """Name, alias and version of a reference, the latter two where it has them; None for any other text.

    >>> parse_reference("roofs@production"), parse_reference("roofs/3"), parse_reference("s3://roofs")
    (('roofs', 'production', None), ('roofs', None, '3'), None)
    """
    match = _REFERENCE.fullmatch(text)
    return None if match is None else (match[1], match[2], match[3])


def is_name(text: str) -> bool:
    """Whether a model can be published under ``text``."""
    return re.fullmatch(_NAME, text) is not None


def is_alias(text: str) -> bool:
    """Whether ``text`` can be an alias."""
    return re.fullmatch(_ALIAS, text) is not None and _RESERVED_ALIAS.fullmatch(text) is None


def check_name(name: str, alias: str | None = None) -> str:
    """``name`` when a model can be published under it and with ``alias``, else ConfigError; no server is asked.

    Jobs call it before they train, so that hours do not end in a refusal.
    """
    if not is_name(name):
        raise ConfigError(
            f"{name!r} is not a model name; use up to 100 letters, digits, '.', '_' and '-'"
        )
    if name in builtin_names():
        raise ConfigError(f"{name!r} is built in; publish under another name, such as my-{name}")
    if alias is not None:
        check_alias(alias)
    return name


def check_alias(alias: str) -> None:
    """Raise ConfigError where ``alias`` cannot be one."""
    if not is_alias(alias):
        raise ConfigError(
            f"{alias!r} is not an alias; use up to 64 letters, digits, '.', '_' and '-', beginning with a letter, "
            "and neither 'latest' nor 'v' with a number"
        )
