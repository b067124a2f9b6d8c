"""Each example of the gallery runs as its docstring says, on small files, and draws its picture."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.plugins.web import listening

from rayscale.resampling import degrade
from rayscale.serving.api import create_app
from rayscale.serving.engine import Engine
from rayscale.serving.settings import ServeSettings

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[1] / "docs/examples"


def run(name: str, *arguments: str) -> str:
    """What the example prints; ``rayscale`` is the one of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    answer = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        env={**os.environ, "PATH": path, "MPLBACKEND": "agg"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def is_picture(path: str) -> bool:
    return len(np.unique(np.asarray(PIL.Image.open(path)))) > 10


def test_photograph(inputs: Path):
    run("photograph.py", "photo.png", "photograph.png")
    assert is_picture("photograph.png")


def test_scene(inputs: Path):
    out = run("scene.py", "scene.tif", "larger.tif", "scene.png")
    assert "model edsr-baseline-x2 weights " in out
    assert "standard deviation over the ensemble: " in out
    assert is_picture("scene.png")


def test_series(inputs: Path):
    run("series.py", "slices", "larger", "series.png")
    assert is_picture("series.png")


def test_benchmark(inputs: Path):
    photo = np.asarray(PIL.Image.open("photo.png"))
    for folder, pixels in (("HR", photo), ("LR", degrade(photo, 2))):
        (inputs / "set" / folder).mkdir(parents=True)
        PIL.Image.fromarray(pixels).save(inputs / "set" / folder / "photo.png")
    run("benchmark.py", "set", "2", "benchmark.png", "bicubic")
    assert is_picture("benchmark.png")


@pytest.fixture
def service() -> Iterator[str]:
    """The address of the HTTP application over an engine in this process, as one replica has it."""
    settings = ServeSettings(model="edsr-baseline-x2")
    engine = Engine(settings)
    engine.start()
    with listening(create_app(engine, settings)) as place:
        yield f"http://{place}"
    engine.close()


def test_call(service: str, inputs: Path):
    out = run("call.py", service, "photo.png", "larger.png")
    assert "answered by edsr-baseline-x2" in out
    assert PIL.Image.open("larger.png").size == (96, 128)
    Path("text.png").write_text("no picture")
    with pytest.raises(AssertionError, match="not an image"):
        run("call.py", service, "text.png", "larger.png")


def test_every_example_is_tested_and_short():
    scripts = {path.stem: path for path in EXAMPLES.glob("*.py")}
    for name in scripts.keys() - {"picture"}:
        assert f"test_{name}" in globals(), name
        assert len(scripts[name].read_text().splitlines()) <= 40
