"""``rayscale adapt --register`` on a real MLflow: what wins is registered with what it is worth, and nothing else."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from rayscale import registry
from rayscale.cli import run
from rayscale.data import Manifest
from rayscale.errors import NotFoundError
from rayscale.local import Addresses

pytestmark = pytest.mark.slow


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Eight pictures of hard edges: what a blur takes away can be learned."""
    folder = tmp_path / "archive"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(8):
        colours = random.integers(0, 256, (12, 12, 3), np.uint8)
        pixels = np.kron(colours, np.ones((8, 8, 1), np.uint8))
        PIL.Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def adapt(archive: Path, target: Path, name: str, steps: int, rate: str) -> int:
    return run(
        "adapt", str(archive), str(target), "--register", name, "--alias", "production", "--steps", str(steps),
        "--held-out", "0.25", "--degradation", "mtf:gain=0.1", "--set", "data.batch=4", "--set", f"optimizer.lr={rate}",
        "--set", "optimizer.ema=0.5",
    )  # fmt: skip


def test_what_wins_is_registered_with_its_card_and_figures(
    stack: Addresses, archive: Path, tmp_path: Path
) -> None:
    name, target = f"mine-{uuid.uuid4().hex[:8]}", tmp_path / "adapted"
    assert adapt(archive, target, name, 30, "1e-4") == 0
    version = registry.resolve(f"{name}@production")
    assert version.version == 1
    scores = (version.scores or {})["held-out"]
    assert scores["protocol"]
    assert f"it has {scores['psnr']:.3f} dB" in version.description
    assert "edsr-baseline-x2 adapted to 6 images by mtf:gain=0.1. On 2 held-out" in (
        version.description
    )
    assert version.dataset_digest == Manifest.load(f"{target}/dataset").digest
    assert registry.load(version).scales == (2,)


def test_what_does_not_win_is_refused_and_nothing_is_registered(
    stack: Addresses, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"mine-{uuid.uuid4().hex[:8]}"
    assert adapt(archive, tmp_path / "adapted", name, 1, "1e-12") == 1
    assert "nothing was registered" in capsys.readouterr().err
    with pytest.raises(NotFoundError):
        registry.resolve(name)
