"""Reading and writing scenes by windows; that the result equals the whole image's is tests/inference/test_scenes.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rayscale.errors import InputError, NotFoundError, StorageError, TooLargeError, UnsupportedError
from rayscale.imaging import Handling, Provenance, read_image
from rayscale.imaging.containers import geotiff
from rayscale.imaging.scene import Part, Scene, SceneWriter, is_scene
from rayscale.storage import connect

rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
from rasterio.enums import MaskFlags  # noqa: E402
from tests.imaging.geotiff_objects import UTM, save  # noqa: E402

VRT = b"""<VRTDataset rasterXSize="20" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1"
subClass="VRTRawRasterBand"><SourceFilename>/etc/passwd</SourceFilename></VRTRasterBand></VRTDataset>"""


def values(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(6).integers(0, 200, shape).astype(dtype)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scene.tif"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_a_window_is_a_part_of_the_whole_image(path, dtype):
    pixels = values(70, 90, 3, dtype=dtype)
    pixels[5, 5:60, 1] = 7
    save(path, pixels, nodata=7, tiled=True, blockxsize=32, blockysize=16)
    whole = read_image(path.read_bytes())
    with Scene(path) as scene:
        assert (scene.height, scene.width, scene.channels, scene.dtype) == (70, 90, 3, dtype)
        part = scene.window(slice(3, 41), slice(50, 90))
        assert scene.mask(slice(3, 41), slice(50, 90)) is None
    np.testing.assert_array_equal(part.pixels, whole.pixels[3:41, 50:90])
    np.testing.assert_array_equal(part.missing.valid, whole.missing.valid[3:41, 50:90])
    assert part.missing.reserved == (7, 7)
    assert part.levels == whole.levels


def test_the_mask_is_read_by_windows(path):
    mask = np.where(values(40, 50) > 100, 255, 0).astype(np.uint8)
    save(path, values(40, 50, 1, dtype="uint8"), lambda dataset: dataset.write_mask(mask))
    with Scene(path) as scene:
        assert scene.masked
        np.testing.assert_array_equal(scene.mask(slice(8, 20), slice(4, 33)), mask[8:20, 4:33])
        valid = scene.window(slice(8, 20), slice(4, 33)).missing.valid
    np.testing.assert_array_equal(valid[:, :, 0], mask[8:20, 4:33] > 0)


def test_levels_of_signed_values_span_all_windows_and_leave_out_what_is_missing(path, monkeypatch):
    pixels = values(150, 170, 2, dtype="float32")
    pixels[140, 160], pixels[3, 2], pixels[70, 70] = (900, -50), (np.nan, np.inf), (-9999, 1)
    pixels[:, :, 1] -= 1000
    save(path, pixels, nodata=-9999)
    monkeypatch.setattr("rayscale.imaging.scene._SCANNED_BYTES", 1)  # squares of 64
    with Scene(path) as scene:
        for band in (0, 1):
            valid = np.sort(
                pixels[..., band][np.isfinite(pixels[..., band]) & (pixels[..., band] != -9999)]
            )
            left_out = len(valid) // 1000
            assert scene.levels.black[band] == valid[left_out]
            assert scene.levels.white[band] == valid[-1 - left_out]
        levels = scene.levels
        assert levels == read_image(path.read_bytes()).levels
    monkeypatch.setattr(geotiff, "levels_of", lambda *_: pytest.fail("the file was read"))
    with Scene(path, levels) as scene:
        assert scene.levels is levels


def test_parts_in_any_order_twice_and_overlapping_blocks_make_the_file(path, tmp_path):
    pixels = values(30, 40, 2)
    mask = np.where(values(30, 40) > 100, 255, 0).astype(np.uint8)
    save(path, pixels, lambda dataset: dataset.write_mask(mask), compress="lzw")
    target = tmp_path / "deep" / "large.tif"
    with Scene(path) as scene, SceneWriter(target, scene, 1) as writer:
        for row, column in ((17, 21), (0, 21), (17, 0), (0, 0), (17, 21)):
            place = slice(row, 30 if row else 17), slice(column, 40 if column else 21)
            writer.put(Part(row, column, pixels[place], mask[place]))
        assert [entry.key for entry in connect(target.parent).list()] == []
        writer.finish(Provenance("edsr/3", "0f" * 32, {"scale": 1}))
    assert list(target.parent.iterdir()) == [target]
    with rasterio.open(target) as result:
        np.testing.assert_array_equal(result.read(), np.moveaxis(pixels, 2, 0))
        np.testing.assert_array_equal(result.dataset_mask(), mask)
        assert MaskFlags.per_dataset in result.mask_flag_enums[0]
        assert result.compression.value == "LZW"
        assert "of each band of the file" in result.tags()["RAYSCALE"]


def test_a_large_result_is_a_cloud_optimised_geotiff_with_the_tags_of_its_bands(path, tmp_path):
    save(path, values(300, 310, 2), compress="deflate", nodata=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(2, WAVELENGTH="492")
    target = tmp_path / "large.tif"
    with Scene(path) as scene, SceneWriter(target, scene, 2) as writer:
        assert (writer.height, writer.width) == (600, 620)
        writer.put(Part(0, 0, values(600, 620, 2)))
        writer.finish()
    with rasterio.open(target) as result:
        assert result.overviews(1) == [2]
        assert (result.tags(1), result.tags(2)) == ({}, {"WAVELENGTH": "492"})
        assert result.res == (5, 5)
        assert "RAYSCALE" not in result.tags()
    cogeo = pytest.importorskip("rio_cogeo", reason="needs rio-cogeo")
    assert cogeo.cog_validate(target, quiet=True) == (True, [], [])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_when_a_writer_ends_early(path, tmp_path, error):
    save(path, values(20, 20, 1))
    target = tmp_path / "out" / "large.tif"
    with (  # noqa: PT012
        pytest.raises(error),
        Scene(path) as scene,
        SceneWriter(target, scene, 2) as writer,
    ):
        writer.put(Part(0, 0, values(40, 40, 1)))
        raise error
    assert not list(target.parent.iterdir())


def test_a_place_that_cannot_be_written_is_a_storage_error(path, tmp_path):
    save(path, values(20, 20, 1))
    (tmp_path / "file").write_text("no folder")
    with Scene(path) as scene:
        writer = SceneWriter(tmp_path / "file" / "large.tif", scene, 2)
        with pytest.raises(StorageError, match=r"file/large\.tif"):
            writer.__enter__()


@pytest.mark.parametrize(
    "name", ["/vsicurl/http://127.0.0.1:1/x.tif", "GTIFF_DIR:1:{}", "zip://{}!a.tif", "missing.tif"]
)
def test_only_files_are_opened_never_urls(path, name):
    save(path, values(9, 9, 1))
    with pytest.raises(NotFoundError, match="no file"):
        Scene(name.format(path))


def test_a_virtual_raster_is_no_scene(path):
    path.write_bytes(VRT)
    assert not is_scene(path)
    with pytest.raises(InputError):
        Scene(path)


def test_what_is_a_scene_is_told_by_tags(path, tmp_path):
    assert is_scene(save(path, values(9, 9, 1)))
    assert not is_scene(tmp_path)
    for content in (b"", b"II*\0", b"\x89PNG" * 20, path.read_bytes()[:40]):
        (tmp_path / "other.tif").write_bytes(content)
        assert not is_scene(tmp_path / "other.tif")


def test_bits_classes_and_giants_are_refused_and_files_closed(path, tmp_path):
    def refused(error, match):
        with pytest.raises(error, match=match):
            Scene(path)

    save(path, values(9, 9, 1, dtype="uint8"), nbits=1)
    refused(UnsupportedError, "1 bit")
    path.write_bytes(b"")
    refused(InputError, "empty")
    save(path, values(9, 9, 1))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(1, LAYER_TYPE="thematic")
    open_files = len(os.listdir("/proc/self/fd"))
    refused(UnsupportedError, "classes")
    assert len(os.listdir("/proc/self/fd")) == open_files
    with rasterio.open(
        path, "w", driver="GTiff", width=800_000, height=800_000, count=1, dtype="uint8", tiled=True,
        blockxsize=4096, blockysize=4096, SPARSE_OK=True, BIGTIFF="YES", crs="EPSG:32632", transform=UTM,
    ):  # fmt: skip
        pass
    refused(TooLargeError, "800000 x 800000.*RAYSCALE_MAX_SCENE_PIXELS")


def test_damage_inside_is_told_when_it_is_read(path, monkeypatch):
    save(path, values(300, 300, 2), compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    path.write_bytes(path.read_bytes()[:150_000])
    monkeypatch.setattr("rayscale.imaging.scene._SCANNED_BYTES", 1)  # a look at 64 rows
    with Scene(path, handling=Handling(levels=(0, 10))) as scene:  # else they take a pass over it
        scene.window(slice(0, 60), slice(0, 300))
        with pytest.raises(InputError, match="damaged"):
            scene.window(slice(200, 300), slice(0, 300))


FULL = """
import resource, signal, sys
import numpy as np
from rayscale.errors import StorageError
from rayscale.imaging.scene import Part, Scene, SceneWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Scene(sys.argv[1]) as scene:
    pixels = scene.window(slice(0, scene.height), slice(0, scene.width)).pixels
    for limit in map(int, sys.argv[3:]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            with SceneWriter(sys.argv[2], scene, 1) as writer:
                writer.put(Part(0, 0, pixels))
                writer.finish()
        except StorageError as error:
            print(error)
"""


def test_a_disk_that_is_full_is_a_storage_error_and_leaves_nothing(path, tmp_path):
    """In the pixels, in the overviews, in the result, and in its last bytes; a limit on files stands for the disk."""
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 1), np.uint8)
    save(path, pixels, compress="deflate")
    target = tmp_path / "out" / "large.tif"

    def write(*limits: int) -> str:
        command = [sys.executable, "-c", FULL, path, target, *map(str, limits)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert write(1 << 30) == ""
    size = target.stat().st_size
    target.unlink()
    told = write(200_000, 1_060_000, 1_200_000, size - 1)
    assert told.count(f"{target} c") == 4, told
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(
    "description",
    ["ImageJ=1.53t\nimages=5\nslices=5\n", '{"shape": [5, 60, 80], "truncated": true}'],
)
def test_a_stack_behind_one_directory_is_refused(path, dtype, description):
    save(path, np.zeros((60, 80, 1), dtype))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(TIFFTAG_IMAGEDESCRIPTION=description)
    with pytest.raises(UnsupportedError, match="stack of 5 pages"):
        Scene(path)
