"""One DICOM file by every door: the command line, a batch and HTTP make the same object."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("pydicom")
import pydicom
from serve.engine import Engine
from serve.jobs import Job
from serve.settings import ServeSettings

from rayscale.batch.actors import Worker
from rayscale.batch.job import open_recipe
from rayscale.batch.plan import Task
from rayscale.cli import main
from rayscale.options import Options
from rayscale.registry import open_model
from rayscale.storage import connect


def _objects() -> ModuleType:
    """The makers of DICOM files of the tests of imaging."""
    path = Path(__file__).parent / "imaging" / "dicom_objects.py"
    spec = importlib.util.spec_from_file_location("dicom_objects", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("model", ["bicubic", "aplus"])
def test_uids_and_bytes_are_the_same_by_every_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    objects = _objects()
    data = objects.saved(objects.scan())
    source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
    source.write("a.dcm", data)

    words = ("upscale", tmp_path / "in/a.dcm", tmp_path / "cli.dcm", "-m", model, "-s", "2")
    monkeypatch.setattr(sys, "argv", ["rayscale", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    by_line = (tmp_path / "cli.dcm").read_bytes()

    network, recipe = open_recipe(model, Options(scale=2))
    with Worker(source, target, recipe.pipeline(network, "cpu"), recipe) as worker:
        (row,) = worker.process([Task(source.stat("a.dcm"))])
    assert not row.error
    by_batch = target.read("a.dcm")

    engine = Engine(ServeSettings(threads=1))
    try:
        answer = asyncio.run(engine.upscale(Job(data, model, Options(scale=2))))
    finally:
        engine.close()

    assert answer.digest == recipe.digest == open_model(model, scale=2).digest
    made = [objects.opened(one) for one in (by_line, by_batch, answer.data)]
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({str(one[name].value) for one in made}) == 1
        assert made[0][name].value != pydicom.dcmread(tmp_path / "in/a.dcm")[name].value
    assert by_line == by_batch == answer.data
