"""A finding of the doctor: what was looked at, what is there, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rayscale.errors import RayscaleError

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what it is, the same words in every run.
        state: ``failed``: something will not work; ``warning``: it works, and may hurt later.
        found: what is there.
        advice: what to do; empty where it is ok.
    """

    check: str
    state: State
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        return asdict(self)


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", found)


@contextmanager
def failing(check: str, advice: str, add: Callable[[Finding], None]) -> Iterator[None]:
    """Make a finding of the error for the user that the block raises."""
    try:
        yield
    except RayscaleError as error:
        add(Finding(check, "failed", str(error), advice))
