"""JPEG against Pillow as independent reader and writer."""

from __future__ import annotations

import io
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms, ImageOps
from tests.imaging.pictures import smooth

from rayscale.errors import InputError, UnsupportedError
from rayscale.imaging import Image, probe, read_image, write_image


def photo(height: int = 40, width: int = 56) -> np.ndarray:
    return smooth(height, width)


def saved(pixels: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(pixels).save(out, "JPEG", **options)
    return out.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_colour_reads_as_pillow_does(progressive, subsampling):
    data = saved(photo(), quality=80, progressive=progressive, subsampling=subsampling)
    image = read_image(data)
    np.testing.assert_array_equal(image.pixels, np.asarray(Pillow.open(io.BytesIO(data))))
    header = probe(data)
    assert (header.height, header.width, header.channels, header.bits) == (40, 56, 3, 8)


def test_a_picture_is_read_without_a_second_copy_of_it():
    """Pillow's own picture is not counted by tracemalloc: what is beside it is the array, and a strip."""
    pixels = np.tile(smooth(64, 64), (16, 16, 1))
    data = saved(pixels, quality=60)
    read_image(data)  # what is imported once
    tracemalloc.start()
    image = read_image(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(image.pixels, np.asarray(Pillow.open(io.BytesIO(data))))
    assert peak < 1.8 * pixels.nbytes


def test_grey_stays_grey():
    data = saved(photo()[:, :, 0])
    image = read_image(data)
    assert image.pixels.shape == (40, 56, 1)
    np.testing.assert_array_equal(image.pixels[:, :, 0], np.asarray(Pillow.open(io.BytesIO(data))))
    assert Pillow.open(io.BytesIO(write_image(image))).mode == "L"


def test_rgb_without_colour_transform_is_understood():
    data = saved(photo(), keep_rgb=True, quality=95)
    np.testing.assert_array_equal(
        read_image(data).pixels, np.asarray(Pillow.open(io.BytesIO(data)))
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_dropped(orientation):
    exif = Pillow.Exif()
    exif[274] = orientation
    data = saved(photo(), exif=exif, dpi=(300, 200))
    image = read_image(data)
    expected = np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))))
    np.testing.assert_array_equal(image.pixels, expected)
    header = probe(data)
    assert (header.height, header.width) == expected.shape[:2]
    assert image.dpi == ((200, 300) if orientation >= 5 else (300, 200))
    assert Pillow.open(io.BytesIO(write_image(image))).getexif().get(274, 1) == 1


def test_the_test_files_of_three_orientations_are_the_same_picture(shared_data):
    pictures = [
        read_image((shared_data / "bad" / f"exif_orientation_{n}.jpg").read_bytes()).pixels
        for n in (1, 3, 6)
    ]
    sources = [
        ImageOps.exif_transpose(Pillow.open(shared_data / "bad" / f"exif_orientation_{n}.jpg"))
        for n in (1, 3, 6)
    ]
    for picture, source in zip(pictures, sources, strict=True):
        np.testing.assert_array_equal(picture, np.asarray(source))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0junk" * 9]
)
def test_damaged_exif_does_not_touch_the_picture(exif):
    plain = saved(photo())
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    image = read_image(plain[:2] + segment + plain[2:])
    np.testing.assert_array_equal(image.pixels, read_image(plain).pixels)


def test_what_only_exif_tells_survives():
    exif = Pillow.Exif()
    exif[282], exif[283], exif[296] = 300.0, 200.0, 2
    exif[315], exif[33432] = "Ada", "(c) 1843"
    image = read_image(saved(photo(), exif=exif, comment="noted"))
    assert image.dpi == (300, 200)
    assert image.text == {"comment": "noted", "Artist": "Ada", "Copyright": "(c) 1843"}
    again = Pillow.open(io.BytesIO(write_image(image)))
    assert again.info["dpi"] == (300, 200)
    assert again.info["comment"].decode() == "noted"
    assert (again.getexif()[315], again.getexif()[33432]) == ("Ada", "(c) 1843")


def test_profile_resolution_and_comment_survive():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(150_000)
    data = saved(photo(), icc_profile=profile, dpi=(240, 120), comment="mein Übersee")
    image = read_image(data)
    assert image.icc == profile
    assert image.dpi == (240, 120)
    assert image.text == {"comment": "mein Übersee"}
    again = Pillow.open(io.BytesIO(write_image(image.with_text(model="edsr"))))
    assert again.info["icc_profile"] == profile
    assert again.info["dpi"] == (240, 120)
    assert again.info["comment"].decode() == "mein Übersee\nmodel: edsr"


@pytest.mark.parametrize("quality", [10, 50, 75, 90, 95, 97, 99, 100])
def test_quality_written_is_at_least_that_of_the_source(quality):
    image = read_image(saved(photo(), quality=quality))
    assert quality <= image.encoding["quality"] <= max(quality + 1, 13)
    written = Pillow.open(io.BytesIO(write_image(image)))
    reference = Pillow.open(io.BytesIO(saved(photo(), quality=max(95, quality))))
    assert sum(written.quantization[0]) <= sum(reference.quantization[0])
    assert written.layer[0][1:3] == written.layer[1][1:3] == (1, 1)


def test_written_pixels_are_close():
    pixels = photo()
    back = read_image(write_image(Image(pixels, container="jpeg"))).pixels
    assert np.abs(back.astype(int) - pixels).max() <= 6


def test_cmyk_is_refused():
    out = io.BytesIO()
    Pillow.fromarray(photo()).convert("CMYK").save(out, "JPEG")
    with pytest.raises(UnsupportedError, match="CMYK"):
        read_image(out.getvalue())


def test_a_flood_of_scans_is_refused():
    data = saved(photo(), progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    with pytest.raises(InputError, match="more than 200 scans"):
        read_image(data[:-2] + scan * 300 + data[-2:])


@pytest.mark.parametrize("flood", [b"\xff\xfe\0\2", b"\xff"])
def test_a_flood_of_segments_is_refused(flood):
    data = saved(photo())
    with pytest.raises(InputError, match="more than 20000 segments"):
        probe(data[:20] + flood * 100_000 + data[20:])


def test_second_picture_of_a_file_is_left_out():
    first = saved(photo())
    image = read_image(first + saved(255 - photo()))
    np.testing.assert_array_equal(image.pixels, read_image(first).pixels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:3], "cut short"),
        (lambda d: d[: len(d) // 2], "cut short"),
        (lambda d: d[:2] + d[-2:], "no pixel data"),
        (lambda d: d[:20] + b"\0\0" + d[20:], "no segment begins at byte 20"),
    ],
)
def test_damage_is_named(change, message):
    with pytest.raises(InputError, match=message):
        read_image(change(saved(photo())))


def test_what_jpeg_cannot_hold_is_refused():
    wide = np.zeros((2, 2, 3), np.uint16)
    for image in (
        Image(wide, container="jpeg"),
        Image(np.zeros((2, 2, 2), np.uint8), container="jpeg"),
        Image(photo(), container="jpeg", alpha=photo()[:, :, 0]),
    ):
        with pytest.raises(UnsupportedError, match="8-bit grey or RGB without alpha"):
            write_image(image)
    with pytest.raises(InputError, match="65533"):
        write_image(Image(photo(), container="jpeg", text={"comment": "x" * 70_000}))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 2}, {"optimize": True}], ids=str
)
def test_a_missing_end_marker_is_noted_and_a_missing_end_refused(options):
    data = saved(photo(), **options)
    whole = read_image(data)
    assert not whole.notes
    for cut in (1, 2):
        image = read_image(data[:-cut])
        np.testing.assert_array_equal(image.pixels, whole.pixels)
        assert "no end marker" in " ".join(image.notes)
    for cut in (4, 10, 50, len(data) // 3):
        with pytest.raises(InputError, match="cut short"):
            read_image(data[:-cut])


def test_a_progressive_file_without_its_last_scans_is_refused():
    data = saved(photo(), progressive=True)
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    # Before a scan stand its tables.
    tables = data.rindex(b"\xff\xc4", 0, scans[-1])
    for end in (tables, scans[-1], data.rindex(b"\xff\xc4", 0, scans[-2])):
        with pytest.raises(InputError, match="cut short"):
            read_image(data[:end])
