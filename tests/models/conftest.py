from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rayscale.models.network import SuperResolver


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


@pytest.fixture(scope="session")
def reached() -> Callable[..., int]:
    """How far, in LR pixels, the output of one LR pixel depends on the input."""

    def measure(model: SuperResolver, scale: int, size: int) -> int:
        x = torch.rand(1, model.channels, size, size, dtype=torch.float64) * model.spec.value_range
        x.requires_grad_()
        centre = size // 2
        first, last = centre * scale, (centre + 1) * scale
        model(x, scale)[..., first:last, first:last].abs().sum().backward()
        assert x.grad is not None
        touched = torch.nonzero(x.grad.abs().sum(dim=(0, 1)))
        return int((touched - centre).abs().max())

    return measure


@pytest.fixture(scope="session")
def open_paths() -> Callable[[SuperResolver], SuperResolver]:
    """Weights by which no ReLU closes and no path cancels."""

    def change(model: SuperResolver) -> SuperResolver:
        for parameter in model.double().parameters():
            parameter.data.abs_().add_(0.1)
        return model.eval()

    return change


@pytest.fixture(scope="session")
def random_weights() -> Callable[[SuperResolver], SuperResolver]:
    """Weights, and statistics of normalisation, that keep the signal alive through every layer."""

    def change(model: SuperResolver) -> SuperResolver:
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif key.endswith("running_mean") or (key.endswith("bias") and "_mean." not in key):
                value.normal_(std=0.1)
            elif value.ndim == 4 and "_mean." not in key:
                torch.nn.init.kaiming_normal_(value)
        return model.eval()

    return change
