"""What the processes of a cluster print, on its way to this console: without lines that ask nobody to do anything."""

from __future__ import annotations

import re
from functools import wraps
from typing import Any

_NOISE = re.compile(
    r"Actor with class name: 'PreemptionWatcher'"  # Ray Train 2.60 of its own actor, at every run
    r"|Found credentials in environment variables"  # boto3, of every process
    r"|ActivityProfiler|External init callback must run"  # torch, where a trace begins and ends
    r"|it was killed by `ray\.kill`"  # Ray Data of workers that it ends itself, when a batch is interrupted
)


def hush() -> None:
    """Leave out the noise from what Ray prints of other processes; before ``ray.init``, which takes the printer.

    Lines of workers and errors of the cluster go through one printer, and Ray offers no filter.
    """
    from ray._private import worker

    printer = worker.print_to_stdstream
    if hasattr(printer, "__wrapped__"):
        return

    @wraps(printer)
    def hushed(data: dict[str, Any], *arguments: Any, **keywords: Any) -> None:
        lines = [line for line in data["lines"] if not _NOISE.search(line)]
        if lines:
            printer({**data, "lines": lines}, *arguments, **keywords)

    worker.print_to_stdstream = hushed
