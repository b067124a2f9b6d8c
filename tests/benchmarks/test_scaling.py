"""``docs/scaling.py`` against its closed form: one worker, two, and the limit of many."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


def test_the_exchange_follows_the_ring(checkout: Path) -> None:
    model = runpy.run_path(str(checkout / "docs/scaling.py"))
    machine = model["Machine"](rate=10.0, bandwidth=1e9, latency=0.0)
    exchange, efficiency = model["exchange_seconds"], model["efficiency"]
    assert exchange(machine, 10**9, 1) == 0
    assert exchange(machine, 10**9, 2) == pytest.approx(1.0)
    assert exchange(machine, 10**9, 10**6) == pytest.approx(2.0, rel=1e-5)
    assert efficiency(machine, 10**9, 1, share=4) == 1
    # A step of 0.3 s, of which 0.2 s hide a part of one second.
    assert efficiency(machine, 10**9, 2, share=3) == pytest.approx(0.3 / 1.1)
    assert efficiency(machine, 10**9, 2, share=3, overlap=False) == pytest.approx(0.3 / 1.3)
    assert efficiency(machine, 10**8, 2, share=3) == pytest.approx(1.0), "it is hidden whole"
