"""A tiny real dataset and validation set on disk, and the configuration of a run of seconds on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
from tests.training.world import Worlds

from rayscale.data import PrepareConfig, prepare
from rayscale.resampling import degrade
from rayscale.settings import get_settings
from rayscale.training.config import TrainConfig, load_config

Pixels = npt.NDArray[np.uint8]


def scene(seed: int, size: int = 96) -> Pixels:
    """Waves, edges and discs: content that a network can learn to sharpen."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.zeros((size, size, 3))
    for channel in range(3):
        angle, rate = random.uniform(0, np.pi), random.uniform(3, 15)
        wave = np.sin(2 * np.pi * rate * (x * np.cos(angle) + y * np.sin(angle)))
        image[:, :, channel] = 128 + 60 * wave
    for _ in range(6):
        cy, cx = random.uniform(0, 1, 2)
        radius = random.uniform(0.05, 0.25)
        image[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = random.uniform(0, 255, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``dataset/`` (8 images at x2 and x4, two shards) and ``validation/``, ``sets/x2``, ``sets/x4`` (two more)."""
    root = tmp_path_factory.mktemp("small-world")
    (root / "source").mkdir()
    for seed in range(8):
        PIL.Image.fromarray(scene(seed)).save(root / "source" / f"{seed}.png")
    config = PrepareConfig(scales=(2, 4), size=96, step=96, minimum=48, images_per_shard=4)
    prepare(str(root / "source"), str(root / "dataset"), config)
    for folder, scale in (("validation", 2), ("sets/x2", 2), ("sets/x4", 4)):
        for kind in ("HR", "LR"):
            (root / folder / kind).mkdir(parents=True)
        for seed in (100, 101):
            hr = scene(seed, 48)
            PIL.Image.fromarray(hr).save(root / folder / "HR" / f"{seed}_HR.png")
            lr = PIL.Image.fromarray(degrade(hr, scale))
            lr.save(root / folder / "LR" / f"{seed}_LR.png")
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSCALE_CACHE_DIR", str(tmp_path / "cache"))
    get_settings.cache_clear()


@pytest.fixture
def make_config(small_world: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """``make_config("optimizer.steps=4", ...)``: 2 blocks of 8 filters, 4 patches of 12, 6 steps."""

    def make(*overrides: str) -> TrainConfig:
        return load_config(
            None,
            [
                f"data.uri={small_world / 'dataset'}",
                f"run.uri={tmp_path / 'runs'}",
                "model.blocks=2",
                "model.filters=8",
                "data.patch=12",
                "data.batch=4",
                "optimizer.lr=1e-3",
                "optimizer.steps=6",
                "checkpoint.every=2",
                "logging.every=2",
                "precision=float32",
                *overrides,
            ],
        )

    return make


class Memory:
    """A metric logger that remembers."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.images: list[tuple[str, int, Pixels]] = []
        self.params: dict[str, Any] = {}

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.points.append((step, dict(metrics)))

    def log_image(self, name: str, pixels: Any, step: int) -> None:
        self.images.append((name, step, pixels))

    def log_params(self, params: Any) -> None:
        self.params.update(params)

    def close(self) -> None: ...


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """What workers of a process group save, one and two of them."""
    return Worlds(tmp_path_factory.mktemp("worlds"), Path(__file__).resolve().parents[2])
