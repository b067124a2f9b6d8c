"""Small source images with known content, as files in a folder."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import tifffile

from rayscale.data import PrepareConfig, prepare

Pixels = npt.NDArray[Any]


def noise(height: int, width: int, channels: int = 3, bits: int = 8, seed: int = 0) -> Pixels:
    """Random pixels: the content for which any misalignment shows."""
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 1 << bits, (height, width, channels), dtype)


def encode(pixels: Pixels, container: str = "png") -> bytes:
    buffer = io.BytesIO()
    if pixels.dtype == np.uint16:
        tifffile.imwrite(
            buffer, pixels, photometric="rgb" if pixels.shape[2] == 3 else "minisblack"
        )
    else:
        flat = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
        PIL.Image.fromarray(flat).save(buffer, container)
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """``images(name=pixels or bytes, ...)`` writes them below a new folder and returns it."""

    def write(files: dict[str, Pixels | bytes]) -> Path:
        folder = tmp_path / "images"
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else encode(content))
        return folder

    return write


@pytest.fixture
def make_noise() -> Callable[..., Pixels]:
    return noise


@pytest.fixture
def make_file() -> Callable[..., bytes]:
    return encode


@pytest.fixture
def prepared(images: Callable[..., Path], tmp_path: Path) -> Path:
    """A dataset at x2, x3 and x4 of five images that take more than one shard."""
    files = {f"{n}.png": noise(60, 72 + 12 * n, seed=n) for n in range(5)}
    config = PrepareConfig(size=48, step=24, minimum=24, images_per_shard=2)
    prepare(images(files), tmp_path / "set", config)
    return tmp_path / "set"
