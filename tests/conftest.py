"""Fixtures of every test. The real S3, MLflow and Ray come from ``tests/plugins/stack.py``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from rayscale.data import PrepareConfig, prepare

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


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """``tmp_path/dataset``: four images of coloured blocks, 96 pixels a side, prepared at x2, x3 and x4."""
    (tmp_path / "source").mkdir()
    random = np.random.default_rng(0)
    for index in range(4):
        colours = random.integers(0, 256, (12, 12, 3), np.uint8)
        pixels = np.kron(colours, np.ones((8, 8, 1), np.uint8))
        PIL.Image.fromarray(pixels).save(tmp_path / "source" / f"{index}.png")
    config = PrepareConfig(size=96, step=96, minimum=48)
    prepare(str(tmp_path / "source"), str(tmp_path / "dataset"), config)
    return tmp_path / "dataset"
