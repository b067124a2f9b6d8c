"""What the tests of ``infra/`` share: the folders, and the rendered manifests."""

from __future__ import annotations

import os
import shutil
import subprocess
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


@pytest.fixture(scope="session")
def archives(infra: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The images of the Ray nodes and of MLflow, built by ``infra/docker/build``: minutes."""
    needed = ("buildah", "mmdebstrap", "unshare", "ip")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} (apt-get install buildah iproute2 mmdebstrap)")
    if os.geteuid() != 0:
        pytest.skip("base images are made as root")
    folder = tmp_path_factory.mktemp("image")
    files = [folder / "rayscale.tar", folder / "rayscale-mlflow.tar"]
    done = subprocess.run(
        [infra / "docker/build", *files],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    return files
