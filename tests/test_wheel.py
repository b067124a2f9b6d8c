"""The wheel is the product: built and installed into an empty environment, every command works outside a checkout."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from rayscale import __version__
from rayscale.cli.app import app
from rayscale.models.builtin import builtin_names
from rayscale.models.systems import model_names
from rayscale.settings import Settings
from rayscale.training.recipes import trained_systems

DATA = {
    "rayscale/py.typed",
    "rayscale/evaluation/published.csv",
    "rayscale/serving/config.yaml",
    *(
        f"rayscale/serving/page/{name}"
        for name in ("index.html", "docs.html", "page.css", "page.js")
    ),
    *(f"rayscale/serving/page/vendor/openseadragon.{kind}" for kind in ("min.js", "LICENSE.txt")),
    *(f"rayscale/models/bundled/edsr-baseline-x2.{kind}" for kind in ("json", "safetensors")),
}

ALL_HELPS = """
import sys, typer
from rayscale import cli
from rayscale.cli.app import app

for name in typer.main.get_command(app).commands:
    assert cli.run(name, "--help") == 0, name
"""

PYTHON = """
import rayscale

rayscale.upscale("photo.png", "python.png", scale=2)
print(rayscale.__file__)
"""


@dataclass(frozen=True)
class Environment:
    """An environment that has rayscale from the wheel, and the folder beside it in which its commands run."""

    bin: Path
    folder: Path

    def run(self, program: str, *words: str) -> str:
        """What a program of the environment prints."""
        done = subprocess.run(
            [self.bin / program, *words],
            cwd=self.folder,
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.folder), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="building the wheel needs rayscale[dev]")
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", checkout, "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Empty but for the wheel. A fresh torch and Ray would take minutes and a network, so its dependencies are those
    of this environment, by a line in a .pth file; rayscale's own editable link is a .pth there, which is not followed.
    """
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    pip("--python", home / "bin/python", "install", "--no-deps", "--no-index", wheel)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(next(p for p in sys.path if p.endswith("-packages")))
    folder = tmp_path_factory.mktemp("elsewhere")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(folder / "photo.png")
    return Environment(home / "bin", folder)


def pip(*words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_the_package_and_its_licences_and_nothing_else(
    wheel: Path, checkout: Path
) -> None:
    source = checkout / "platform"
    package = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    about = f"rayscale-{__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in ("LICENSE", "NOTICE"):
            assert (
                archive.read(f"{about}/licenses/{name}").decode() == (checkout / name).read_text()
            )
        metadata = email.message_from_bytes(archive.read(f"{about}/METADATA"))
    assert {name for name in names if not name.startswith(about)} == package
    assert package >= DATA
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra", [])) >= {"local", "geo", "medical"}


@pytest.mark.slow
def test_every_command_says_what_it_does(environment: Environment) -> None:
    shown = environment.run("python", "-c", ALL_HELPS)
    assert shown.count("Usage: rayscale ") == len(app.registered_commands)
    shown = re.sub(r"[\s│]+", " ", shown)
    assert f"Systems: {', '.join(trained_systems())}." in shown
    assert environment.run("rayscale", "--version") == f"rayscale {__version__}\n"
    assert "--model" in environment.run("rayscale", "serve", "--help")


@pytest.mark.slow
def test_settings_and_models(environment: Environment) -> None:
    settings = environment.run("rayscale", "settings")
    for name in Settings.model_fields:
        assert f"RAYSCALE_{name.upper()}=" in settings
    assert f"RAYSCALE_HOME={environment.folder / '.rayscale'} " in settings
    models = environment.run("rayscale", "models")
    assert all(name in models for name in (*model_names(), *builtin_names()))


@pytest.mark.slow
def test_an_upscale_by_python_and_by_command(environment: Environment) -> None:
    environment.run("rayscale", "upscale", "photo.png", "line.png", "-m", "edsr-baseline-x2")
    home = environment.bin.parent
    assert environment.run("python", "-c", PYTHON).startswith(str(home))
    made = [(environment.folder / name).read_bytes() for name in ("line.png", "python.png")]
    assert made[0] == made[1]
    assert PIL.Image.open(environment.folder / "line.png").size == (48, 40)
