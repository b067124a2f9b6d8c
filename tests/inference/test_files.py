"""One file or object into another: the same bytes wherever either lies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.plugins.stack import Bucket

from rayscale.cli import run
from rayscale.errors import NotFoundError
from rayscale.imaging import Image, write_image
from rayscale.inference.files import upscale_object
from rayscale.inference.pipeline import Pipeline
from rayscale.models.builtin import open_builtin
from rayscale.options import Options
from rayscale.storage import connect

PIXELS = np.random.default_rng(0).integers(0, 256, (21, 17, 3), np.uint8)
MASK = r"the mask of scene\.tif lies in scene\.tif\.msk"


def test_an_object_is_upscaled_as_a_file(
    s3: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = write_image(Image(PIXELS))
    store, here = connect(f"{s3.uri}/in"), connect(tmp_path)
    expected = Pipeline(open_builtin("bicubic"), Options(scale=2, uncertainty=True)).run(photo)
    for place in (store, here):
        place.write("photo.png", photo)
    for number, (source, sink) in enumerate([(store, store), (store, here), (here, store)]):
        target = sink.locate(f"{number}.png")
        words = ("upscale", source.locate("photo.png"), target, "-m", "bicubic", "--uncertainty")
        assert run(*words, "--json") == 0
        (told,) = json.loads(capsys.readouterr().out)["done"]
        assert told["output"] == target
        assert told["uncertainty"] == sink.locate(f"{number}.uncertainty.tif")
        assert sink.read(f"{number}.png") == expected.data
        assert expected.uncertainty is not None
        assert sink.read(f"{number}.uncertainty.tif") == expected.uncertainty[0]
    assert sorted(entry.key for entry in store.list())[:3] == [
        "0.png",
        "0.uncertainty.tif",
        "2.png",
    ]
    assert (
        run("upscale", store.locate("photo.png"), store.locate("photo.png"), "--model=bicubic") == 1
    )
    assert "input and output are the same object" in capsys.readouterr().err
    assert store.read("photo.png") == photo
    assert run("upscale", f"{s3.uri}/in", str(tmp_path / "x.png"), "-m", "bicubic") == 1
    assert "for all objects below it, name a folder as output" in capsys.readouterr().err


def test_what_lies_beside_an_object_is_heeded(tmp_path: Path) -> None:
    """As for files: without its mask, missing pixels would pass for measured."""
    store = connect(tmp_path / "in")
    for name in ("scene.tif", "scene.tif.msk", "scene2.tif"):
        store.write(name, write_image(Image(PIXELS, "tiff")))
    pipeline = Pipeline(open_builtin("bicubic"), Options(scale=2))
    with pytest.raises(NotFoundError, match="for all objects"):
        upscale_object(str(tmp_path), str(tmp_path / "x.tif"), lambda _: pipeline)
    with pytest.raises(Exception, match=MASK):
        upscale_object(store.locate("scene.tif"), str(tmp_path / "x.tif"), lambda _: pipeline)
    upscale_object(store.locate("scene2.tif"), str(tmp_path / "x.tif"), lambda _: pipeline)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "x.tif"]
