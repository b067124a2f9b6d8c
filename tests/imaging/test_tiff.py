"""TIFF against tifffile and Pillow as independent readers and writers."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging import Image, probe, read_image, write_image
from rayscale.imaging.containers import tiff
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.options import Options

RNG = np.random.default_rng(2)


def noise(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def saved(array: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **{"metadata": None, **options})
    return out.getvalue()


def page(data: bytes) -> tifffile.TiffPage:
    return tifffile.TiffFile(io.BytesIO(data)).pages[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 13])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd", "lzma"])
def test_bands_layout_and_codec_survive(dtype, channels, planar, compression):
    pixels = noise(33, 47, channels, dtype=dtype)
    layout = {"planarconfig": "separate" if planar else "contig"} if channels > 1 else {}
    stored = np.moveaxis(pixels, 2, 0) if planar and channels > 1 else pixels.squeeze()
    data = saved(
        stored,
        photometric="minisblack",
        compression=compression,
        extrasamples=["unspecified"] * (channels - 1) or None,
        **layout,
    )
    image = read_image(data)
    np.testing.assert_array_equal(image.pixels, pixels)
    header = probe(data)
    assert (header.height, header.width, header.channels) == (33, 47, channels)
    written = write_image(image)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(written)), stored)
    assert page(written).compression == page(data).compression
    assert page(written).planarconfig == page(data).planarconfig
    assert page(written).photometric == page(data).photometric
    assert write_image(read_image(written)) == written


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 3), (1, 5, 4), (5, 1, 7), (3, 3, 3)])
def test_tiny_pictures(size):
    pixels = noise(*size)
    np.testing.assert_array_equal(read_image(write_image(Image(pixels, "tiff"))).pixels, pixels)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("predictor", [False, True])
def test_file_structure_survives(byteorder, bigtiff, tile, predictor):
    pixels = noise(70, 50, 3)
    data = saved(
        pixels,
        photometric="rgb",
        byteorder=byteorder,
        bigtiff=bigtiff,
        tile=tile,
        predictor=predictor,
        compression="zlib",
    )
    image = read_image(data)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.pixels.dtype.isnative
    written = tifffile.TiffFile(io.BytesIO(write_image(image)))
    assert (written.byteorder, written.is_bigtiff) == (byteorder, bigtiff)
    assert written.pages[0].tile == tile
    assert written.pages[0].predictor == (2 if predictor else 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_reads_what_pillow_writes_and_back(mode):
    array = noise(20, 30) if mode == "I;16" else noise(20, 30, 4, dtype=np.uint8)
    picture = Pillow.fromarray(array) if mode == "I;16" else Pillow.fromarray(array).convert(mode)
    out = io.BytesIO()
    picture.save(out, "TIFF")
    image = read_image(out.getvalue())
    assert (image.alpha is not None) == (mode == "RGBA")
    again = Pillow.open(io.BytesIO(write_image(image)))
    assert again.mode == mode
    np.testing.assert_array_equal(np.asarray(again), np.asarray(picture))


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_alpha_keeps_its_kind_and_its_place(kind, place):
    extras = ["unspecified"] * 3
    extras[place] = kind
    pixels = noise(9, 8, 6)
    data = saved(pixels, photometric="rgb", extrasamples=extras, planarconfig="contig")
    image = read_image(data)
    np.testing.assert_array_equal(image.alpha, pixels[:, :, 3 + place])
    np.testing.assert_array_equal(image.pixels, np.delete(pixels, 3 + place, axis=2))
    assert probe(data).channels == 5
    written = write_image(image)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(written)), pixels)
    assert page(written).extrasamples == page(data).extrasamples


def test_alpha_given_anew_is_unassociated():
    written = write_image(Image(noise(5, 6, 3), "tiff", alpha=noise(5, 6)))
    assert page(written).extrasamples == (2,)


def test_jpeg_compression_is_read_and_written_as_deflate():
    y, x = np.mgrid[:64, :80]
    pixels = np.stack([x * 3, y * 3, x + y], -1).astype(np.uint8)
    data = saved(pixels, photometric="rgb", compression="jpeg")
    image = read_image(data)
    np.testing.assert_array_equal(image.pixels, tifffile.imread(io.BytesIO(data)))
    assert page(write_image(image)).compression == 8


def test_white_at_zero_is_turned_over():
    values = noise(10, 12, dtype=np.uint8)
    data = saved(values, photometric="miniswhite")
    image = read_image(data)
    np.testing.assert_array_equal(image.pixels[:, :, 0], 255 - values)
    shown = np.asarray(Pillow.open(io.BytesIO(write_image(image))))
    np.testing.assert_array_equal(shown, 255 - values)


def test_profile_resolution_and_text_survive():
    data = saved(
        noise(8, 9, 3),
        photometric="rgb",
        iccprofile=b"profile" * 99,
        resolution=(118.11, 59.055),
        resolutionunit="CENTIMETER",
        description="ein Bild",
        software="camera 1.0",
        datetime="2020:01:02 03:04:05",
        extratags=[(315, 2, 0, "M. Muster", True)],
    )
    image = read_image(data)
    assert image.icc == b"profile" * 99
    assert image.dpi == pytest.approx((300, 150), rel=1e-4)
    assert image.text == {
        "ImageDescription": "ein Bild",
        "Software": "camera 1.0",
        "DateTime": "2020:01:02 03:04:05",
        "Artist": "M. Muster",
    }
    written = write_image(image.with_text(**{"rayscale.model": "edsr größer"}))
    tags = page(written).tags
    assert tags[34675].value == image.icc
    assert read_image(written).dpi == pytest.approx((300, 150), rel=1e-4)
    assert tags[305].value == "camera 1.0"
    assert tags[315].value == "M. Muster"
    description = "ein Bild\nrayscale.model: edsr größer"
    assert read_image(written).text["ImageDescription"] == description


def test_description_of_an_array_shape_is_dropped():
    data = saved(noise(8, 9), metadata={})
    assert "shape" in page(data).description
    assert "ImageDescription" not in read_image(data).text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_dropped(orientation):
    pixels = noise(6, 9, 3, dtype=np.uint8)
    data = saved(pixels, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    image = read_image(data)
    plain = Pillow.fromarray(pixels)
    turn = {
        2: Pillow.FLIP_LEFT_RIGHT, 3: Pillow.ROTATE_180, 4: Pillow.FLIP_TOP_BOTTOM,
        5: Pillow.TRANSPOSE, 6: Pillow.ROTATE_270, 7: Pillow.TRANSVERSE, 8: Pillow.ROTATE_90,
    }.get(orientation)  # fmt: skip
    expected = np.asarray(plain if turn is None else plain.transpose(turn))
    np.testing.assert_array_equal(image.pixels, expected)
    assert (probe(data).height, probe(data).width) == expected.shape[:2]
    assert 274 not in page(write_image(image)).tags or page(write_image(image)).tags[274].value == 1


def test_stack_is_refused_with_its_length_but_overviews_are_not_pages():
    with pytest.raises(UnsupportedError, match="5 pages"):
        read_image(saved(noise(5, 8, 9), photometric="minisblack"))
    out = io.BytesIO()
    pixels = noise(32, 32)
    with tifffile.TiffWriter(out) as writer:
        writer.write(pixels, metadata=None)
        writer.write(pixels[::2, ::2], subfiletype=1, metadata=None)
    assert probe(out.getvalue()).pages == 1
    np.testing.assert_array_equal(read_image(out.getvalue()).pixels[:, :, 0], pixels)


def test_stack_hidden_by_imagej_is_counted():
    out = io.BytesIO()
    tifffile.imwrite(out, noise(6, 8, 9), imagej=True)
    assert probe(out.getvalue()).pages == 6


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((4, 4), np.uint32), {}, "32 bit"),
        (np.zeros((4, 4), bool), {}, "1 bit"),
        (np.zeros((4, 4, 4), np.uint8), {"photometric": "separated"}, "CMYK"),
        (
            np.zeros((4, 4), np.uint8),
            {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
            "palette",
        ),
        (np.zeros((4, 4), np.uint8), {"compression": "lerc"}, "34887"),
        (np.zeros((4, 4), np.uint8), {"ome": True, "metadata": {}}, "OME-TIFF"),
    ],
)
def test_kinds_not_handled_are_refused_by_name(array, options, message):
    with pytest.raises(UnsupportedError, match=message):
        read_image(saved(array, **options))


def patched(data: bytes, tag: int, value: int) -> bytes:
    """``data`` with the first value of ``tag`` replaced."""
    entry = page(data).tags[tag]
    out = bytearray(data)
    struct.pack_into("<" + {3: "H", 4: "I", 16: "Q"}[entry.dtype], out, entry.valueoffset, value)
    return bytes(out)


@pytest.mark.parametrize(
    ("tag", "value", "error", "message"),
    [
        (256, 60000, InputError, "strip 0"),
        (257, 0, InputError, "64 x 0"),
        (279, 0, InputError, "holds no data"),
        (273, 10**6, InputError, "cut short"),
        (277, 9, InputError, "damaged"),
    ],
)
def test_damage_is_named(tag, value, error, message):
    data = saved(noise(64, 64, 3), photometric="rgb")
    with pytest.raises(error, match=message):
        read_image(patched(data, tag, value))


def test_looping_directories_are_refused():
    data = saved(noise(8, 8))
    first = page(data)
    out = bytearray(data)
    struct.pack_into("<I", out, first.offset + 2 + 12 * len(first.tags), first.offset)
    with pytest.raises(InputError, match="loop"):
        read_image(bytes(out))


def test_strips_that_all_share_a_large_part_of_the_file_are_refused(monkeypatch):
    monkeypatch.setattr(tiff, "_SHARED_BYTES", 0)
    data = saved(noise(256, 4096), rowsperstrip=1, compression="zlib")
    counts, offsets = page(data).tags[279], page(data).tags[273]
    out = bytearray(data)
    for index in range(256):
        struct.pack_into("<I", out, offsets.valueoffset + 4 * index, 8)
        size = {3: "H", 4: "I"}[counts.dtype]
        value = min(len(data) - 8, 0xFFFF if size == "H" else 1 << 31)
        struct.pack_into("<" + size, out, counts.valueoffset + struct.calcsize(size) * index, value)
    with pytest.raises(InputError, match="add up"):
        read_image(bytes(out))


def test_bands_count_against_the_limit():
    data = saved(noise(40, 40, 13), photometric="minisblack", planarconfig="contig")
    read_image(data, max_pixels=40 * 40 * 4)
    with pytest.raises(TooLargeError, match="13 channels"):
        read_image(data, max_pixels=40 * 40)


def test_jpeg_tile_larger_than_its_place_is_refused():
    big = saved(
        np.zeros((64, 64, 3), np.uint8), photometric="rgb", compression="jpeg", tile=(64, 64)
    )
    small = patched(patched(big, 322, 16), 323, 16)
    with pytest.raises(InputError):
        read_image(patched(patched(small, 256, 16), 257, 16))


def test_truncation_anywhere_is_an_input_error():
    data = saved(noise(16, 16, 3), photometric="rgb", compression="lzw")
    for end in range(0, len(data), 7):
        with pytest.raises(InputError):
            read_image(data[:end])


def test_a_resolution_beyond_what_a_tiff_can_hold_is_left_out():
    image = Image(
        RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8), "tiff", dpi=(2.0**32 - 0.5, 72.0)
    )
    assert read_image(write_image(image)).dpi is None


OME = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image/></OME>'


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("ImageJ=1.53t\nimages=5\nslices=5\n", "stack of 5 pages"),
        ('{"shape": [5, 60, 80], "truncated": true}', "stack of 5 pages"),
        (OME, "OME-TIFF"),
    ],
    ids=["ImageJ", "tifffile", "OME"],
)
def test_what_hides_behind_one_directory_is_refused_whatever_its_pixels(
    dtype, description, message
):
    pixels = np.zeros((60, 80), dtype)
    with pytest.raises(UnsupportedError, match=message):
        read_image(saved(pixels, description=description))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_planes_of_metamorph_are_counted(dtype):
    planes = (33629, 5, 3, (1,) * 6, True)
    with pytest.raises(UnsupportedError, match="stack of 3 pages"):
        read_image(saved(np.zeros((6, 8), dtype), extratags=[planes]))


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m", "mm", "inch"])
def test_the_calibration_of_imagej_is_scaled(unit):
    description = f"ImageJ=1.53t\nimages=1\nunit={unit}\nmin=0\nmax=255\n"
    data = saved(
        noise(6, 8), description=description, resolution=(0.5, 0.25), resolutionunit=1
    )  # fmt: skip
    larger = write_image(
        Upscaler(create_model("bicubic"), Options(scale=2)).upscale(read_image(data))
    )
    with tifffile.TiffFile(io.BytesIO(larger)) as file:
        tags = file.pages[0].tags
        told = tifffile.tifffile.imagej_description_metadata(tags["ImageDescription"].value)
        x, y = (tags[name].value for name in ("XResolution", "YResolution"))
    assert (told["min"], told["max"]) == (0, 255)
    assert told["unit"] == unit
    assert tags["ResolutionUnit"].value == 1
    assert (x[0] / x[1], y[0] / y[1]) == pytest.approx((1, 0.5))
    assert "images" not in tags["ImageDescription"].value


def test_a_description_that_cannot_be_kept_true_is_left_out_with_a_word():
    unknown = saved(noise(6, 8), description="ImageJ=1.53t\nunit=furlong\n", resolution=(3, 3))
    image = read_image(unknown)
    assert "ImageDescription" not in image.text
    assert image.notes == (
        "the calibration of ImageJ in 'furlong' is not kept: the unit is not known",
    )
    assert read_image(saved(noise(6, 8), description='{"shape": [6, 8]}')).notes == ()
    (text,) = read_image(saved(noise(6, 8), description='{"shape": [6, 8], "dye": "GFP"}')).notes
    assert "description of tifffile is not kept" in text


def test_a_shape_of_floats_is_left_out_too():
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    data = saved(noise(6, 8).astype(np.float32), description='{"shape": [6, 8]}')
    larger = write_image(
        Upscaler(create_model("bicubic"), Options(scale=2)).upscale(read_image(data))
    )
    with rasterio.MemoryFile(larger) as file, file.open() as made:
        assert "TIFFTAG_IMAGEDESCRIPTION" not in made.tags()


def test_a_turned_picture_keeps_no_orientation_in_its_xmp():
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" tiff:Make="Me"/>'
        b"</rdf:RDF></x:xmpmeta>"
    )
    tags = [(274, 3, 1, 6, True), (700, 7, len(xmp), xmp, True)]
    data = saved(noise(6, 9, 3, dtype=np.uint8), photometric="rgb", extratags=tags)
    written = page(write_image(read_image(data))).tags[700].value
    assert b'tiff:Make="Me"' in written
    assert b'Orientation="6"' not in written
