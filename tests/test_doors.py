"""One file by every door: the command line, a batch, HTTP and Python make the same bytes of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")
pytest.importorskip("rasterio")
import nibabel
import pydicom
import rasterio
from tests.imaging.dicom_objects import opened, saved, scan
from typer.testing import CliRunner

import rayscale
from rayscale.batch.job import open_method
from rayscale.batch.plan import Task
from rayscale.batch.worker import Worker
from rayscale.cli import main
from rayscale.cli.app import app
from rayscale.imaging import Image, write_image
from rayscale.options import Options
from rayscale.serving.engine import Engine
from rayscale.serving.requests import UpscaleRequest
from rayscale.serving.settings import ServeSettings
from rayscale.storage import connect


def _picture(container: str, kind: type) -> bytes:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (30, 41, 3)).astype(kind)
    return write_image(Image(pixels, container))


def _scene(folder: Path) -> bytes:
    pixels = np.random.default_rng(0).integers(1, 9000, (3, 70, 90), np.uint16)
    pixels[:, 5:9, 7:20] = 0
    with rasterio.open(
        folder / "made.tif", "w", driver="GTiff", width=90, height=70, count=3, dtype="uint16", nodata=0,
        crs="EPSG:32632", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), compress="deflate",
    ) as dataset:  # fmt: skip
        dataset.write(pixels)
    return (folder / "made.tif").read_bytes()


def _volume(_: Path) -> bytes:
    values = np.random.default_rng(0).integers(-900, 900, (21, 17, 4), np.int16)
    return bytes(nibabel.Nifti1Image(values, np.diag([1, 2, 3, 1])).to_bytes())


FILES: dict[str, Callable[[Path], bytes]] = {
    "a.png": lambda _: _picture("png", np.uint8),
    "misnamed.jpg": lambda _: _picture("png", np.uint8),
    "deep.png": lambda _: _picture("png", np.uint16),
    "a.jpg": lambda _: _picture("jpeg", np.uint8),
    "a.webp": lambda _: _picture("webp", np.uint8),
    "a.tif": lambda _: _picture("tiff", np.uint16),
    "scene.tif": _scene,
    "a.dcm": lambda _: saved(scan()),
    "a.nii": _volume,
}


@pytest.mark.parametrize(
    "options",
    [Options(scale=2), Options(scale=2, ensemble=True, consistency=True, levels=(0, 5000))],
    ids=["plain", "all"],
)
@pytest.mark.parametrize("name", FILES)
def test_every_door_makes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: Options
) -> None:
    if options.consistency and name in ("a.jpg", "a.webp"):
        pytest.skip("back-projection needs a lossless container")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = _by_every_door(tmp_path, monkeypatch, name, FILES[name](tmp_path), "bicubic", options)
    assert len(set(made.values())) == 1


def test_a_name_of_another_format_is_kept_and_noted(tmp_path: Path) -> None:
    source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
    source.write("a.jpg", _picture("png", np.uint8))
    path, note = (
        tmp_path / "in/a.jpg",
        "its name ends in .jpg, but it is a PNG, and so is the output",
    )

    def run(*words: object) -> str:
        answer = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert not answer.exit_code, answer.output
        return answer.stdout

    for command in ("upscale", "degrade"):
        model = ["-m", "bicubic"] if command == "upscale" else []
        assert note in run(command, path, tmp_path / "line.jpg", *model)
        assert note in run(command, path.parent, tmp_path / "folder", *model)
        assert note not in run(command, path, tmp_path / "line.png", *model)
    assert note in run("info", path)
    assert note in rayscale.upscale(path, tmp_path / "python.jpg", model="bicubic").notes[0]
    network, method = open_method("bicubic", Options(scale=2))
    with Worker(source, target, method.pipeline(network, "cpu"), method) as worker:
        (row,) = worker.process([Task(source.stat("a.jpg"))])
    assert note in row.notes[0]


def test_a_network_makes_the_same_object_with_new_identifiers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = saved(scan())
    made = _by_every_door(tmp_path, monkeypatch, "a.dcm", data, "aplus", Options(scale=2))
    assert len(set(made.values())) == 1
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        source = pydicom.dcmread(tmp_path / "in/a.dcm")[keyword].value
        assert opened(made["line"])[keyword].value != source


def _by_every_door(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    data: bytes,
    model: str,
    options: Options,
) -> dict[str, bytes]:
    source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
    source.write(name, data)
    made = {}

    words = [
        f"--{key}" if value is True else f"--{key}={value}"
        for key, value in options.to_texts().items()
    ]
    places = tmp_path / "in" / name, tmp_path / "line" / name
    monkeypatch.setattr(
        sys, "argv", ["rayscale", "upscale", *map(str, places), "-m", model, *words]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    made["line"] = places[1].read_bytes()

    network, method = open_method(model, options)
    with Worker(source, target, method.pipeline(network, "cpu"), method) as worker:
        (row,) = worker.process([Task(source.stat(name))])
    assert not row.error, row.message
    made["batch"] = target.read(name)

    engine = Engine(ServeSettings(threads=1))
    try:
        made["http"] = asyncio.run(engine.upscale(UpscaleRequest(data, model, options))).data
    finally:
        engine.close()

    texts = {key: getattr(options, key) for key in options.to_texts()}
    rayscale.upscale(places[0], tmp_path / "python" / name, model=model, **texts)
    made["python"] = (tmp_path / "python" / name).read_bytes()
    return made
