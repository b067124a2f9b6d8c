"""What a run would do and cost."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from rayscale.batch import forecast, forecast_bucket
from rayscale.batch.job import open_method
from rayscale.batch.manifest import Manifest
from rayscale.batch.plan import start_row
from rayscale.errors import ConfigError, NotFoundError
from rayscale.options import Options
from rayscale.settings import get_settings
from rayscale.storage import Store, connect


def picture(height: int, width: int, kind: str = "png") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    if kind == "tiff":  # its header is at the end
        tifffile.imwrite(file, pixels, photometric="rgb", compression="zlib", rowsperstrip=8)
    else:
        PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> Store:
    store = connect(tmp_path / "in")
    store.write("a.png", picture(100, 50))
    store.write("b.jpg", picture(40, 50, "jpeg"))
    store.write("c.tif", picture(200, 300, "tiff"))
    store.write("d.txt", b"no image")
    return store


def test_every_header_of_a_few_is_read(source: Store, tmp_path: Path) -> None:
    result = forecast_bucket(
        source.uri,
        tmp_path / "out",
        model="bicubic",
        device="cpu",
        actors=3,
        options=Options(scale=2),
    )
    assert (result.total, result.todo, result.headers, result.unreadable) == (4, 4, 4, 1)
    assert result.megapixels == (100 * 50 + 40 * 50 + 200 * 300) / 1e6
    assert result.source_bytes == sum(entry.size for entry in source.list())
    assert (result.output_bytes, result.workers) == (4 * result.source_bytes, 3)
    assert result.seconds >= 0
    assert "one core of" in result.seconds_from
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "scale", "limit"),
    [("max_input_pixels", 2, 59_999), ("max_output_pixels", 3, 9 * 59_999)],
)
def test_what_is_over_a_limit_is_no_work(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, scale: int, limit: int
) -> None:  # fmt: skip
    monkeypatch.setattr(get_settings(), setting, limit)
    result = forecast_bucket(
        source.uri, tmp_path / "out", model="bicubic", device="cpu", options=Options(scale=scale)
    )
    assert (result.headers, result.unreadable) == (4, 2)
    assert result.megapixels == (100 * 50 + 40 * 50) / 1e6


def test_what_consistency_refuses_is_no_work(source: Store, tmp_path: Path) -> None:
    result = forecast_bucket(
        source.uri,
        tmp_path / "out",
        model="bicubic",
        device="cpu",
        options=Options(scale=2, consistency=True),
    )
    assert result.unreadable == 2  # the text and the JPEG


@pytest.mark.slow
def test_the_limits_of_scenes_are_those_of_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 13 bands the bytes are over what the pixels of an input may take, which no scene has to keep."""
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    (tmp_path / "in").mkdir()
    with rasterio.open(
        tmp_path / "in/a.tif", "w", driver="GTiff", width=150, height=150, count=13, dtype="uint16", crs="EPSG:32632"
    ) as scene:  # fmt: skip
        scene.write(np.ones((13, 150, 150), np.uint16))
    monkeypatch.setattr(get_settings(), "scene_pixels", 10_000)
    for limit, work in ((90_000, 0.0225), (89_999, 0)):
        monkeypatch.setattr(get_settings(), "max_scene_pixels", limit)
        result = forecast_bucket(
            tmp_path / "in",
            tmp_path / "out",
            model="bicubic",
            device="cpu",
            options=Options(scale=2),
        )
        assert result.megapixels == work


def test_a_sample_of_many_is_extrapolated_by_bytes(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        source.write(f"more/{number}.png", picture(30, 30 + number))
    monkeypatch.setattr(forecast, "_HEADERS", 11)
    monkeypatch.setattr(forecast, "_measure_speed", lambda *_: (10.0, "said so"))
    result = forecast_bucket(
        source.uri + "/more/*",
        tmp_path / "out",
        model="bicubic",
        actors=2,
        options=Options(scale=2),
    )
    truth = sum(30 * (30 + number) for number in range(40)) / 1e6
    assert (result.headers, result.todo) == (11, 40)
    assert abs(result.megapixels / truth - 1) < 0.02
    assert result.seconds == round(10 * result.megapixels / 2, 1)


def test_earlier_rows_say_how_long_and_how_large(source: Store, tmp_path: Path) -> None:
    target = connect(tmp_path / "out")
    _, method = open_method("bicubic", Options(scale=2))
    etag = target.write("a.png", b"output") or ""
    row = replace(
        start_row(source.stat("a.png"), method),
        output_etag=etag, output_size=3 * source.stat("a.png").size, megapixels=0.005, seconds=0.5,
    )  # fmt: skip
    manifest = Manifest(target, 1)
    other = replace(row, key="gone.png", output_etag="x")  # its output was deleted
    slow = replace(
        row,
        key="z.png",
        recipe="another",
        seconds=50,
        output_etag=target.write("z.png", b"x") or "",
    )
    bad = replace(start_row(source.stat("b.jpg"), method), error="bad_image")
    manifest.append([row, other, slow, bad])
    manifest.flush()
    target.write("c.tif", b"somebody's")
    result = forecast_bucket(
        source.uri,
        target.uri,
        model="bicubic",
        actors=1,
        retry_failed=False,
        options=Options(scale=2),
    )
    assert (result.done, result.kept, result.todo, result.occupied) == (1, 1, 2, 1)
    assert result.seconds == round(100 * result.megapixels, 1)
    assert result.output_bytes == 3 * result.source_bytes
    assert "1 image done before with this model and these options" in result.seconds_from


def test_nothing_to_do_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("none.png")
    (tmp_path / "in").mkdir()
    result = forecast_bucket(
        tmp_path / "in",
        tmp_path / "out",
        model="bicubic",
        keys=tmp_path / "keys.txt",
        options=Options(scale=2),
    )
    assert (result.missing, result.todo, result.seconds, result.megapixels) == (1, 0, 0, 0)


@pytest.mark.slow
def test_one_object_is_all_that_is_done(source: Store, tmp_path: Path) -> None:
    one = f"{source.uri}/a.png"
    result = forecast_bucket(
        one, tmp_path / "out", model="bicubic", device="cpu", options=Options(scale=2)
    )
    assert (result.total, result.todo, result.megapixels) == (1, 1, 0.005)
    for target, way_out in ((tmp_path / "out/a.png", r"give .*/out$"), ("a.png/", r"give \.$")):
        with pytest.raises(ConfigError, match=rf"the target is where a\.png goes; {way_out}"):
            forecast_bucket(one, target, model="bicubic", options=Options(scale=2))
    source.write(".hidden.png", picture(20, 30))
    hidden = forecast_bucket(
        f"{source.uri}/.hidden.png",
        tmp_path / "out",
        model="bicubic",
        device="cpu",
        options=Options(scale=2),
    )
    assert (hidden.todo, hidden.megapixels) == (1, 0.0006)


def test_it_refuses_what_the_run_refuses(source: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="overlap"):
        forecast_bucket(source.uri, source.uri, model="bicubic", options=Options(scale=2))
    with pytest.raises(ConfigError, match="one of the two"):
        forecast_bucket(
            f"{source.uri}/*",
            tmp_path / "out",
            model="bicubic",
            keys=tmp_path / "k",
            options=Options(scale=2),
        )
    with pytest.raises(NotFoundError, match=r"no input in .* matches '\*\.gif'"):
        forecast_bucket(
            f"{source.uri}/*.gif", tmp_path / "out", model="bicubic", options=Options(scale=2)
        )
    with pytest.raises(ConfigError, match="actors"):
        forecast_bucket(
            source.uri, tmp_path / "out", model="bicubic", actors=0, options=Options(scale=2)
        )


@pytest.mark.slow
@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_directory_of_a_large_tiff_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, big: bool
) -> None:
    monkeypatch.setattr(forecast, "_WHOLE_BYTES", 1 << 17)
    file, store = io.BytesIO(), connect(tmp_path / "in")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    with tifffile.TiffWriter(file, bigtiff=big, byteorder=order) as writer:
        writer.write(pixels, photometric="rgb", compression="zlib", rowsperstrip=8)
    data = bytearray(file.getvalue())
    # The directory moves to the end, where writers put it that learn the offsets last.
    layout, at = (order + "Q", 8) if big else (order + "I", 4)
    (offset,) = struct.unpack_from(layout, data, at)
    struct.pack_into(layout, data, at, len(data))
    store.write("a.tif", bytes(data + data[offset : offset + 1000]))
    result = forecast_bucket(
        store.uri, tmp_path / "out", model="bicubic", device="cpu", options=Options(scale=2)
    )
    assert (result.unreadable, result.unknown, result.megapixels) == (0, 0, 0.12)


def test_a_file_whose_header_is_not_found_counts_as_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "_WHOLE_BYTES", 1 << 16)
    store, known = connect(tmp_path / "in"), picture(100, 100)
    store.write("a.png", known)
    store.write("b.tif", b"II+\0" + b"\xff" * (1 << 17))
    result = forecast_bucket(
        store.uri, tmp_path / "out", model="bicubic", device="cpu", options=Options(scale=2)
    )
    assert (result.headers, result.unreadable, result.unknown) == (2, 0, 1)
    assert result.megapixels == pytest.approx(0.01 * result.source_bytes / len(known), rel=1e-3)
