"""One id for all that comes of one request: its lines in logs, the rows of its batch, its tasks on Ray, its run in MLflow.

The variable ``RAYSCALE_ID`` carries it from process to process; whatever begins without one makes its own.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from typing import Any

from rayscale import strictjson

VARIABLE = "RAYSCALE_ID"

SOUND = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""What may be an id."""


def new_id() -> str:
    """An id that nothing else has."""
    return secrets.token_hex(16)


def current() -> str:
    """The id of what this process works on."""
    if SOUND.fullmatch(os.environ.get(VARIABLE, "")) is None:
        begin(new_id())
    return os.environ[VARIABLE]


def variables() -> dict[str, str]:
    """What a process elsewhere needs in its environment to work on the same."""
    return {VARIABLE: current()}


def begin(known: str) -> None:
    """Let this process, and those it starts, work on ``known`` from now on."""
    os.environ[VARIABLE] = known


def tell(event: str, **facts: Any) -> None:
    """Write a line of JSON to standard error, which Ray keeps in a file for each of its processes.

    ``facts`` hold no names of files, nor anything of an image: logs are read by more people than results.
    """
    line = {"event": event, "id": current(), "time": round(time.time(), 3), "process": os.getpid()}
    print(strictjson.dumps({**line, **facts}), file=sys.stderr, flush=True)
