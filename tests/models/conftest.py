from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(autouse=True)
def _small_and_reproducible() -> Iterator[None]:
    """A fixed seed, and one thread: these networks are too small to share."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The independent networks of ``reference.py``."""
    path = Path(__file__).with_name("reference.py")
    spec = importlib.util.spec_from_file_location("models_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
