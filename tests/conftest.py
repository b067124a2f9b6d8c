"""Fixtures of every test. The real S3, MLflow and Ray come from ``tests/plugins/stack.py``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import settings

from rayscale.data import PrepareConfig, prepare

# No deadlines: on a busy machine any example may take long.
settings.register_profile("usual", deadline=None)
settings.load_profile("usual")
# For runs by hand, with --hypothesis-profile=long.
settings.register_profile("long", max_examples=10_000)

pytest_plugins = ["tests.plugins.stack", "tests.plugins.hosts"]

CHECKOUT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Workers save the coverage that they measured when they end, on a busy machine later than the ten seconds after
    which pytest-xdist kills them."""
    if "COVERAGE_RUN" in os.environ and config.getoption("numprocesses", None):
        from xdist.workermanage import NodeManager

        NodeManager.EXIT_TIMEOUT = 300


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Research data beside the checkout (``RAYSCALE_SHARED`` or ``../shared``); never part of the project."""
    data = Path(os.environ.get("RAYSCALE_SHARED", CHECKOUT.parent / "shared")) / "data"
    if not data.is_dir():
        pytest.skip(
            f"no research data at {data}; set RAYSCALE_SHARED to the folder that holds data/"
        )
    return data


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """``tmp_path/dataset``: four images of coloured blocks, 96 pixels a side, prepared at x2, x3 and x4."""
    (tmp_path / "source").mkdir()
    random = np.random.default_rng(0)
    for index in range(4):
        colours = random.integers(0, 256, (12, 12, 3), np.uint8)
        pixels = np.kron(colours, np.ones((8, 8, 1), np.uint8))
        PIL.Image.fromarray(pixels).save(tmp_path / "source" / f"{index}.png")
    config = PrepareConfig(size=96, step=96, minimum=48)
    prepare(str(tmp_path / "source"), str(tmp_path / "dataset"), config)
    return tmp_path / "dataset"


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that pages and examples speak of, small ones; it is the current one."""
    import nibabel
    import rasterio
    from tests.imaging.dicom_objects import saved, scan

    random = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    pixels = random.integers(0, 256, (32, 24, 3), np.uint8)
    PIL.Image.fromarray(pixels).resize((48, 64)).save("photo.png")
    geo: dict[str, Any] = {
        "driver": "GTiff",
        "width": 32,
        "height": 24,
        "count": 3,
        "dtype": "uint16",
    }
    place = rasterio.transform.from_origin(500_000, 5_000_000, 10, 10)
    with rasterio.open("scene.tif", "w", **geo, crs="EPSG:32632", transform=place) as scene:
        scene.write(random.integers(500, 4000, (3, 24, 32), np.uint16))
    Path("slices").mkdir()
    for number in (1, 2):
        elements = {"InstanceNumber": number, "SOPInstanceUID": f"1.2.3.{number}"}
        Path(f"slices/{number}.dcm").write_bytes(saved(scan(**elements)))
    Path("slice.dcm").write_bytes(Path("slices/1.dcm").read_bytes())
    volume = random.integers(0, 1000, (20, 24, 3)).astype(np.int16)
    nibabel.Nifti1Image(volume, np.diag([1.0, 1.0, 2.0, 1.0])).to_filename("brain.nii.gz")
    return tmp_path
