"""What files beside a raster tell of it is noted or refused by one rule, at the command line and in a batch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from rayscale.batch.inputs import find_inputs
from rayscale.batch.plan import Method, make_plan
from rayscale.batch.scenes import SceneWork
from rayscale.batch.worker import SharedScene, Worker
from rayscale.cli import main
from rayscale.errors import UnsupportedError
from rayscale.imaging.sidecars import heed, is_sidecar, names_beside
from rayscale.models.systems import create_model
from rayscale.options import Options
from rayscale.storage import connect

PLACE, SYSTEM, RPC, NODATA = 33550, 34735, 50844, 42113
SRS = "<SRS>EPSG:32611</SRS>"
TRANSFORM = "<GeoTransform>500000, 10, 0, 4100000, 0, -10</GeoTransform>"


def pam(content: str = "", band: str = "") -> bytes:
    band = band and f'<PAMRasterBand band="1">{band}</PAMRasterBand>'
    return f"<PAMDataset>{content}{band}</PAMDataset>".encode()


def heeded(files: dict[str, bytes], *tags: int, repeats: bool = False) -> tuple[str, ...]:
    beside = names_beside("in/a.tif", {f"in/{name}" for name in files}.__contains__)
    return heed(
        "in/a.tif", beside, tags, lambda key: files[key.removeprefix("in/")], repeats=repeats
    )


@pytest.mark.parametrize(
    ("files", "own", "told"),
    [
        ({"a.tfw": b""}, PLACE, "a.tfw is not read, so the result is without its place"),
        ({"a.TFW": b""}, PLACE, "a.TFW is not read"),
        ({"a.prj": b""}, SYSTEM, "a.prj is not read, so the result is without its reference system"),
        ({"a_RPC.TXT": b""}, RPC, "a_RPC.TXT is not read, so the result is without its RPC"),
        ({"a_rpc.txt": b""}, RPC, "a_rpc.txt is not read"),
        ({"a.RPB": b""}, RPC, "a.RPB is not read"),
        ({"a.IMD": b""}, None, "a.IMD is not read"),
        ({"a.tif.aux.xml": pam(SRS)}, SYSTEM, "without its reference system"),
        ({"a.tif.aux.xml": pam(TRANSFORM)}, PLACE, "without its place"),
        ({"a.tif.aux.xml": pam('<Metadata domain="RPC"/>')}, RPC, "without its RPC"),
        ({"a.tif.aux.xml": pam("", "<Scale>0.0001</Scale>")}, None, "scale and offset of values"),
        ({"a.tif.aux.xml": b"<PAMDataset>"}, None, "content, which is damaged"),
        ({"a.tif.aux.xml": b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'}, None, "damaged"),
    ],
)  # fmt: skip
def test_what_a_raster_does_not_tell_itself_is_noted(files, own, told):
    (text,) = heeded(files)
    assert told in text
    assert text.endswith("gdal_translate a.tif whole.tif makes one file of both")
    if own is not None:
        assert heeded(files, own) == ()


def test_statistics_and_overviews_are_no_loss():
    statistics = pam("", '<Metadata><MDI key="STATISTICS_MEAN">3</MDI></Metadata>')
    assert heeded({"a.tif.aux.xml": statistics, "a.tif.ovr": b""}) == ()
    assert heeded({"a.png": b"", "b.tfw": b""}) == ()


CATEGORIES = "<CategoryNames><Category/><Category>water</Category></CategoryNames>"
TABLE = '<GDALRasterAttributeTable tableType="thematic"/>'
OLD = '<GDALRasterAttributeTable><FieldDefn index="0"><Usage>{}</Usage></FieldDefn></GDALRasterAttributeTable>'
LAYER = '<Metadata><MDI key="LAYER_TYPE">thematic</MDI></Metadata>'
PALETTE = '<ColorTable><Entry c1="1" c2="2" c3="3" c4="255"/></ColorTable>'


@pytest.mark.parametrize("band", [CATEGORIES, TABLE, OLD.format(2), LAYER, PALETTE])
def test_classes_that_a_sidecar_names_are_for_the_nearest_model_alone(band):
    files = {"a.tif.aux.xml": pam("", band)}
    with pytest.raises(UnsupportedError, match=r"a\.tif\.aux\.xml says.*the model nearest"):
        heeded(files)
    assert heeded(files, repeats=True) == ()
    assert heeded({"a.tif.aux.xml": pam("", '<GDALRasterAttributeTable tableType="athematic"/>')}) == ()  # fmt: skip
    assert heeded({"a.tif.aux.xml": pam("", OLD.format(1))}) == ()  # a histogram


def test_nodata_and_masks_beside_a_raster_are_refused():
    files = {"a.tif.aux.xml": pam("", "<NoDataValue>65535</NoDataValue>")}
    with pytest.raises(UnsupportedError, match=r"nodata value 65535 of a\.tif stands in"):
        heeded(files)
    assert heeded(files, NODATA) == ()
    with pytest.raises(UnsupportedError, match=r"mask of a\.tif"):
        heeded({"a.tif.msk": b""})


def test_a_sidecar_needs_its_raster():
    there = {"x/a.tif", "x/b.JPG", "x/c.tif"}.__contains__
    yes = ("x/a.tif.aux.xml", "x/a.tfw", "x/a_RPC.TXT", "x/b.jgw", "x/c.tif.ovr", "x/c.prj")
    no = ("x/a.txt", "x/d.tfw", "a.tfw", "x/a.tif", "x/notes_RPC.TXT", "x/d.tif.aux.xml")
    assert [name for name in yes if not is_sidecar(name, there)] == []
    assert [name for name in no if is_sidecar(name, there)] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A raster with a place beside it, one with nodata beside it, and one alone."""
    source = tmp_path / "in"
    source.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (12, 15), dtype=np.uint8)
    for name in ("place", "nodata", "alone"):
        tifffile.imwrite(source / f"{name}.tif", pixels, metadata=None)
    (source / "place.tif.aux.xml").write_bytes(pam(SRS + TRANSFORM))
    (source / "place_RPC.TXT").write_text("LINE_OFF: 24\n")
    (source / "nodata.tif.aux.xml").write_bytes(pam("", "<NoDataValue>255</NoDataValue>"))
    (source / "other.txt").write_text("no image")
    return source


def test_the_command_line_heeds_them(folder, tmp_path, monkeypatch, capsys):
    command = ["rayscale", "upscale", folder, tmp_path / "out", "-m", "bicubic", "--json"]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    with pytest.raises(SystemExit) as exit_:
        main()
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert exit_.value.code == 3
    (failed,) = told["failed"]
    assert "nodata value 255 of nodata.tif" in failed["error"]
    notes = {Path(done["input"]).name: done.get("notes", []) for done in told["done"]}
    assert [note[:19] for note in notes["place.tif"]] == ["place.tif.aux.xml i", "place_RPC.TXT is no"]  # fmt: skip
    assert notes["alone.tif"] == []
    assert "note: place_RPC.TXT is not read" in err


@pytest.mark.parametrize("keys", [None, ["place.tif", "nodata.tif", "alone.tif"]])
def test_a_batch_heeds_them_and_takes_none_for_an_input(folder, tmp_path, keys):
    source, target = connect(folder), connect(tmp_path / "out")
    found = find_inputs(source, target, keys=keys)
    assert [entry.key for entry in found.entries if entry.key != "other.txt"] == [
        "alone.tif",
        "nodata.tif",
        "place.tif",
    ]
    assert found.ignored == (3 if keys is None else 0)
    method = Method("bicubic", "built-in:bicubic", Options(scale=2))
    tasks = [type(task).from_json(task.to_json()) for task in make_plan(found, {}, {}, method).todo]
    pipeline = method.pipeline(create_model("bicubic"), "cpu")
    with Worker(source, target, pipeline, method) as worker:
        rows = {row.key: row for row in worker.process(tasks)}
    assert rows["nodata.tif"].error == "unsupported_media"
    assert "nodata value 255" in rows["nodata.tif"].message
    assert len(rows["place.tif"].notes) == 2
    assert (rows["alone.tif"].error, rows["alone.tif"].notes) == ("", ())


def test_a_scene_over_all_workers_heeds_them(folder, tmp_path, monkeypatch):
    from rayscale.batch import actors
    from rayscale.batch.manifest import Row
    from rayscale.settings import get_settings

    pytest.importorskip("rasterio", reason="needs the extra geo")
    monkeypatch.setattr(get_settings(), "cache_dir", tmp_path / "cache")
    monkeypatch.setattr(get_settings(), "scene_pixels", 1)
    for name in ("place", "nodata"):
        pixels = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
        tifffile.imwrite(folder / f"{name}.tif", pixels, metadata=None)
    source, target = connect(folder), connect(tmp_path / "out")
    method = Method("bicubic", "built-in:bicubic", Options(scale=2))
    tasks = make_plan(find_inputs(source, target, pattern="[np]*.tif"), {}, {}, method).todo
    pipeline = method.pipeline(create_model("bicubic"), "cpu")
    with Worker(source, target, pipeline, method) as worker:
        refused, shared = worker.process(tasks)
    assert refused.error == "unsupported_media"
    assert isinstance(shared, SharedScene)
    monkeypatch.setattr(actors, "prepare", lambda *_, **__: pipeline)
    work = SceneWork(source, target, method, tasks[1])
    with work.open() as scene:
        from rayscale.inference import windows_of

        for number, window in enumerate(windows_of(scene, pipeline.upscaler)):
            work.compute(scene, pipeline.upscaler, number, window)
    row = Row.from_json(actors.assemble(source, target, None, method, False, tasks[1]))
    assert row.error == ""
    assert len(row.notes) == 2
