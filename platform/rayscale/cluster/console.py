"""What the processes of a cluster print, on its way to this console: without lines that ask nobody to do anything."""

from __future__ import annotations

import re
from typing import Any

_NOISE = re.compile(
    r"Actor with class name: 'PreemptionWatcher'"  # Ray Train 2.60 of its own actor, at every run
    r"|Found credentials in environment variables"  # boto3, of every process
    r"|ActivityProfiler|External init callback must run"  # torch, where a trace begins and ends
)
_NAME = "rayscale"


def hush() -> None:
    """Leave out the noise from what Ray prints of other processes; before ``ray.init``, as its printer comes after."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    dispatcher.remove_handler(_NAME)
    dispatcher.add_handler(_NAME, _leave_out)


def _leave_out(data: dict[str, Any]) -> None:
    data["lines"] = [line for line in data["lines"] if not _NOISE.search(line)]
