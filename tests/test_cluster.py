from __future__ import annotations

import time

import pytest
import ray

from rayscale import cluster
from rayscale.errors import ConfigError, RayscaleError


@pytest.fixture(autouse=True)
def _not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh process, whatever Ray the tests before have joined."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_answers(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(RayscaleError, match=r"nothing answers at RAY_ADDRESS=.*unset RAY_ADDRESS"):
        cluster.connect(address=address, timeout_s=0.5)
    assert time.monotonic() - started < 10


def test_an_address_that_is_none() -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        cluster.connect(address="localhost")
