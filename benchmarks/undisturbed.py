"""What a batch is given in a kill run, and what an undisturbed process makes of it."""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from rayscale.errors import RayscaleError
from rayscale.imaging import Provenance, read_image, write_image
from rayscale.imaging.scene import Scene
from rayscale.inference import Upscaler, upscale_scene, windows_of
from rayscale.options import Options
from rayscale.registry import open_model

MODEL, SCALE = "edsr-baseline", 2
SCENE = "3/scene.tif"  # its key
SIDES = range(48, 97, 8)
# The batch packs smaller ones, and what shares a pack depends on what was killed: a value on the edge could round otherwise.
SHAPES = [(height, width) for height in SIDES for width in SIDES if height * width > 64 * 64]


class Output(NamedTuple):
    """What an object must be: its bytes, their sha256."""

    size: int
    sha256: str

    @staticmethod
    def of(data: bytes) -> Output:
        return Output(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Expected:
    """What an undisturbed process makes: outputs by key, and of how many windows the scene among them (0: none)."""

    outputs: dict[str, Output]
    windows: int
    seconds: float  # that the scene took

    @property
    def images(self) -> int:
        """The outputs less the scene."""
        return len(self.outputs) - (SCENE in self.outputs)


def make_images(count: int, corrupt: int, seed: int) -> dict[str, bytes]:
    """Files by key: smooth colours with noise; the last ``corrupt`` of them damaged in four ways."""
    rng = np.random.default_rng(seed)
    files = {}
    for number in range(count):
        height, width = SHAPES[rng.integers(len(SHAPES))]
        y, x = np.mgrid[:height, :width]
        waves = [128 + 80 * np.sin(x * a + y * b) for a, b in rng.uniform(-0.3, 0.3, (3, 2))]
        pixels = np.stack(waves, -1) + rng.normal(0, 6, (height, width, 3))
        kind = ("png", "jpeg")[number % 2]
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, kind)
        data = file.getvalue()
        if number >= count - corrupt:
            half = len(data) // 2
            data = (data[:half], data[:4] + data[half:], b"", b"no image")[number // 2 % 4]
        files[f"{number % 7}/{number:05d}.{kind}"] = data
    return files


def enlarged(files: dict[str, bytes], model: str = "bicubic") -> dict[bytes, bytes]:
    """What the service must answer to each of these files."""
    upscaler, provenance = _open(model)
    return {
        data: write_image(upscaler.upscale(read_image(data)), provenance) for data in files.values()
    }


def _open(model: str) -> tuple[Upscaler, Provenance]:
    opened = open_model(model, scale=SCALE)
    upscaler = Upscaler(opened.network, Options(scale=SCALE), device="cpu")
    return upscaler, Provenance(opened.label, opened.digest, upscaler.describe())


def reference(files: dict[str, bytes], model: str = MODEL, scene: Path | None = None) -> Expected:
    """What an undisturbed run makes, one input after the other in this process; no corrupt ones."""
    torch.set_num_threads(1)
    upscaler, provenance = _open(model)
    outputs = {}
    for key, data in files.items():
        try:
            image = upscaler.upscale(read_image(data))
        except RayscaleError:
            continue
        outputs[key] = Output.of(write_image(image, provenance))
    if scene is None:
        return Expected(outputs, 0, 0.0)

    start, larger = time.monotonic(), scene.with_suffix(".reference")
    upscale_scene(upscaler, scene, larger, provenance)
    with larger.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    outputs[SCENE] = Output(larger.stat().st_size, sha256)
    larger.unlink()
    with Scene(scene) as opened_scene:
        windows = len(windows_of(opened_scene, upscaler))
    return Expected(outputs, windows, time.monotonic() - start)
