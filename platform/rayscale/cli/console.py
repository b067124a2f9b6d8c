"""What commands print: notes and errors to standard error, results to standard output."""

from __future__ import annotations

import json
import sys


def note(text: str) -> None:
    """A line of progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def fail(text: str) -> None:
    """An error, on standard error."""
    note(f"error: {text}")


def emit(value: object) -> None:
    """A machine-readable result: one JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
