from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from benchmarks import gpu

from rayscale.models.systems import create_model


def test_a_dry_run_measures_everything_that_a_cpu_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "gpu.py --device cpu --small --systems edsr-baseline --scales 2 --output"
    monkeypatch.setattr(sys, "argv", [*words.split(), str(tmp_path / "gpu.md")])
    gpu.main()
    told = (tmp_path / "gpu.md").read_text()
    for way in ("float32 NCHW, whole image", "rayscale, strips", "tiles in batches"):
        assert f"| edsr-baseline x2 | {way} |" in told
    assert "official steps/s" in told


def test_tiles_inside_the_picture_are_exact() -> None:
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, filters=4, blocks=1).eval()
    x = torch.rand(1, 3, 48, 48) * 255
    path = model.path(2, 3)
    assert path is not None
    halo = model.halo(2)
    tiles = gpu.Tiles(path, x, 2, halo, 16, 2)
    assert tiles.places[4] == (16, 16)
    (part,) = list(tiles.batches())[2][:1]
    with torch.no_grad():
        whole, made = model(x, 2), path(part[None])
    middle = made[..., 2 * halo : 2 * halo + 32, 2 * halo : 2 * halo + 32]
    assert torch.allclose(middle, whole[..., 32:64, 32:64], atol=1e-3)
