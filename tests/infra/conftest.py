"""What the tests of ``infra/`` share: the folders, and the rendered manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.infra import kustomize

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def infra() -> Path:
    """``infra/`` of the checkout."""
    return ROOT / "infra"


@pytest.fixture(scope="session", params=["base", "overlays/gpu", "overlays/production"])
def variant(request: pytest.FixtureRequest) -> str:
    """Each kustomization, by its folder under ``infra/kuberay``."""
    return str(request.param)


@pytest.fixture(scope="session")
def manifests(variant: str) -> list[dict[str, Any]]:
    """The rendered resources of one kustomization."""
    return kustomize.render(ROOT / "infra" / "kuberay" / variant)
