"""Fixtures of every test. The real S3, MLflow and Ray come from ``tests/plugins/stack.py``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["tests.plugins.stack"]

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Research data beside the checkout (``RAYSCALE_SHARED`` or ``../shared``); never part of the project."""
    data = Path(os.environ.get("RAYSCALE_SHARED", CHECKOUT.parent / "shared")) / "data"
    if not data.is_dir():
        pytest.skip(
            f"no research data at {data}; set RAYSCALE_SHARED to the folder that holds data/"
        )
    return data
