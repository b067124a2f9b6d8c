"""An application behind a real socket, and jobs of batches that never end, for tests of HTTP without Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


@contextmanager
def listening(app: Any, **how: Any) -> Iterator[str]:
    """``host:port`` of a server of the application; ``how`` as of ``uvicorn.Config``."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none", **how))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


class EndlessJobs:
    """``rayscale.serving.batches.Jobs`` that start nothing and never end."""

    def submit(self, job: str, record: str) -> None:
        pass

    def ended(self, job: str) -> str | None:
        return None

    def stop(self, job: str) -> None:
        pass
