"""A system is one file: another package brings one, and it trains, is saved, upscales and is served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayscale.errors import ConfigError
from rayscale.models.edsr import EDSR
from rayscale.models.system import SYSTEMS, system
from rayscale.models.systems import systems
from rayscale.models.vdsr import VDSR

MODULE = """
from torch import Tensor, nn

from rayscale.models.network import SuperResolver
from rayscale.models.spec import ModelSpec
from rayscale.models.system import SHORT, system


@system(
    "shuffler",
    "one convolution and a shuffle",
    defaults={"filters": 4, "blocks": 0, "value_range": 1.0},
    options=("filters", "value_range"),
    recipes={"paper": {}, "short": {**SHORT, "optimizer.lr": 1e-3}},
)
class Shuffler(SuperResolver):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        (scale,) = spec.scales
        self.layers = nn.Sequential(
            nn.Conv2d(spec.channels, spec.channels * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    def enlarge(self, x: Tensor, scale: float) -> Tensor:
        return self.layers(x)

    def halo(self, scale: float) -> int:
        return 1
"""

USE = """
import asyncio, json, os, sys
import numpy as np
import rayscale
from rayscale.imaging import Image, read_image, write_image
from rayscale.models.facts import describe
from rayscale.models.weights import load_model
from rayscale.registry import ModelVersion, models
from rayscale.serving.engine import Engine
from rayscale.serving.requests import UpscaleRequest
from rayscale.serving.settings import ServeSettings
from rayscale.training.config import load_config
from rayscale.training.loop import train

folder = sys.argv[1]
config = load_config(None, [
    "model.name=shuffler", "recipe=short", "model.scale=2", f"data.uri={folder}/dataset", f"run.uri={folder}/runs",
    "run.name=r", "data.patch=16", "data.batch=2", "optimizer.steps=2",
])
result = train(config)
weights = result.weights
model = rayscale.open_model("shuffler", weights=weights, scale=2)
pixels = np.zeros((8, 6, 3), np.uint8)

spec = load_model(weights).spec
models.resolve = lambda reference: ModelVersion(reference, 1, "0" * 64, spec, "", ())
models.load = lambda version: load_model(weights)
os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:1"
engine = Engine(ServeSettings(threads=1))
answer = asyncio.run(engine.upscale(UpscaleRequest(write_image(Image(pixels, "png")), "roofs")))
engine.close()
print(json.dumps({
    "lr": config.optimizer.lr,
    "steps": result.steps,
    "shape": model.upscale(pixels).shape,
    "served": [answer.model, *read_image(answer.data).pixels.shape],
    "halo": describe("shuffler")["halo"]["2"],
}))
"""


@pytest.mark.slow
def test_a_system_of_another_package(tmp_path: Path, dataset: Path) -> None:
    package = tmp_path / "site"
    info = package / "foreign_sr-1.0.dist-info"
    info.mkdir(parents=True)
    (package / "foreign_sr.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-sr\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rayscale.systems]\nshuffler = foreign_sr\nbroken = no_such_module\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", USE, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(package), *sys.path])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found == {
        "lr": 1e-3,
        "steps": 2,
        "shape": [16, 12, 3],
        "served": ["roofs/1", 16, 12, 3],
        "halo": 1,
    }
    assert "the systems of broken (no_such_module) could not be loaded" in told.stderr


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ConfigError, match=r"'edsr' is rayscale.models.edsr.EDSR already"):
        system("edsr", "another")(VDSR)
    class_of_the_same_name = type("EDSR", (VDSR,), {"__module__": "elsewhere"})
    with pytest.raises(ConfigError, match=r"elsewhere\.EDSR needs another name"):
        system("edsr", "another")(class_of_the_same_name)
    assert SYSTEMS["edsr"].network is EDSR


def test_a_module_may_be_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "vdsr", SYSTEMS["vdsr"])
    again = type("VDSR", (VDSR,), {"__module__": VDSR.__module__, "__qualname__": "VDSR"})
    assert system("vdsr", "the same")(again) is SYSTEMS["vdsr"].network


def test_the_table_is_in_the_order_of_the_field() -> None:
    names = list(systems())
    assert (
        names.index("bicubic") < names.index("aplus") < names.index("srcnn") < names.index("vdsr")
    )
    assert names.index("srresnet") < names.index("srgan") < names.index("edsr-baseline")
