"""What commands print: notes and errors to standard error, results to standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rayscale import strictjson
from rayscale.interruption import Interrupted, watch

if TYPE_CHECKING:
    from rich.table import Table


_LIMITLESS = 1 << 20
"""Columns of a table whose width is what its cells need."""


def note(text: str) -> None:
    """A line of progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def hint(text: str) -> Iterator[None]:
    """Tell how to go on when a signal ends the block and says nothing itself."""
    try:
        with watch():  # makes one of whatever a signal led to
            yield
    except Interrupted as error:
        raise Interrupted(error.number, str(error) or text) from error


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """A function that shows a line on standard error in place of its last one; only where a person may watch."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    clear = "\r\x1b[K"  # to the start of the line, and empty it
    try:
        yield lambda text: print(clear + text, end="", file=sys.stderr, flush=True)
    finally:
        print(clear, end="", file=sys.stderr, flush=True)


def print_table(table: Table) -> None:
    """A table for people; brackets in it, as in file names and ``rayscale[geo]``, are not mark-up.

    A file or another program gets all of it: only a terminal has an edge to keep within.
    """
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        limitless = console.options.update(max_width=_LIMITLESS)
        width = Measurement.get(console, limitless, table).maximum
        notes = [str(text) for text in (table.title, table.caption) if text]
        console.width = max(width, *map(len, notes), 1)
    console.print(table)


def emit(value: Any, file: TextIO | None = None) -> None:
    """A machine-readable result: one JSON document with its format, on standard output."""
    print(strictjson.document(value), file=file, flush=True)
