from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from rayscale.models.builtin import OpenedModel
from rayscale.models.systems import create_model


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """``tmp_path/set``: HR/ and LR/ of two smooth pictures at x2."""
    random = np.random.default_rng(0)
    for name in ("HR", "LR"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for index in range(2):
        picture = PIL.Image.fromarray(random.integers(0, 256, (6, 5, 3), np.uint8))
        for name, size in (("HR", (80, 96)), ("LR", (40, 48))):
            larger = picture.resize(size, PIL.Image.Resampling.BICUBIC)
            larger.save(tmp_path / "set" / name / f"{index}.png")
    return tmp_path / "set"


def small(system: str, scale: float = 2, **options: int) -> OpenedModel:
    """A network of few maps with weights that do something."""
    torch.manual_seed(0)
    options = {"filters": 16, "blocks": 2, **options}
    if system.startswith("srcnn"):
        del options["blocks"]
    network = create_model(system, scale=scale, **options).eval()
    return OpenedModel(network, "0" * 64, f"small-{system}")
