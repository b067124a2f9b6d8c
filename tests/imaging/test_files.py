"""The boundary: what is recognised, what is refused, and that nothing but rayscale errors leaves it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging import (
    CONTAINERS,
    EXTENSIONS,
    MIME,
    Image,
    probe,
    read_image,
    sniff,
    write_image,
)
from rayscale.inference import Upscaler
from rayscale.inference.parts import Parts
from rayscale.models.systems import create_model
from rayscale.options import Options

RNG = np.random.default_rng(3)
BASE = RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)


def tiff(**options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, BASE, photometric="rgb", metadata=None, rowsperstrip=8, **options)
    return out.getvalue()


SAMPLES = [
    write_image(Image(BASE, "png")),
    write_image(Image(BASE.astype(np.uint16) * 257, "png", text={"a": "b"}, icc=b"x" * 200)),
    write_image(Image(BASE, "jpeg", dpi=(72, 72))),
    write_image(Image(BASE, "jpeg", encoding={"progressive": True})),
    write_image(Image(BASE, "tiff", encoding={"tile": (16, 16)})),
    write_image(Image(BASE, "webp", dpi=(72, 72), text={"a": "b"})),
    write_image(Image(BASE, "webp", BASE[..., 0], encoding={"lossless": False}, icc=b"x" * 99)),
    tiff(compression="lzw", predictor=True),
    tiff(compression="jpeg"),
    tiff(bigtiff=True),
]

# Every file of shared data/bad: shape and type it reads as, or the error and a word of its message.
EXPECTED: dict[str, tuple[object, str]] = {
    "16bit.cropped.tif": ((64, 64, 1), "uint16"),
    "animated.gif": (UnsupportedError, "GIF"),
    "bad_crc.png": (InputError, "damaged"),
    "bands7_uint16_planar.tif": ((64, 64, 7), "uint16"),
    "bigtiff.tif": ((256, 256, 3), "uint8"),
    "bomb_header_60000x60000.png": (TooLargeError, "60000 x 60000"),
    "bomb_real_20000x20000_1bit.png": (TooLargeError, "20000 x 20000"),
    "broken.png": (InputError, "damaged"),
    "cmyk.jpg": (UnsupportedError, "CMYK"),
    "crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif": (InputError, "damaged"),
    "crash-4f085cc12ece8cde18758d42608bed6a2a2cfb1c.tif": (InputError, "damaged"),
    "decompression_bomb.gif": (UnsupportedError, "GIF"),
    "exif_orientation_1.jpg": ((160, 256, 3), "uint8"),
    "exif_orientation_3.jpg": ((160, 256, 3), "uint8"),
    "exif_orientation_6.jpg": ((256, 160, 3), "uint8"),
    "float32_nan.tif": ((64, 64, 1), "float32"),
    "gray16.png": ((256, 256, 1), "uint16"),
    "gray8.png": ((256, 256, 1), "uint8"),
    "gray_alpha.png": ((256, 256, 1), "uint8"),
    "hopper_bad_exif.jpg": ((500, 500, 1), "uint8"),
    "hopper_gray.jpg": ((128, 128, 1), "uint8"),
    "html_named.jpg": (UnsupportedError, "not an image"),
    "icc_profile.png": ((57, 57, 3), "uint8"),
    "int16_negative.tif": ((64, 64, 1), "int16"),
    "multipage_uint16.tif": (UnsupportedError, "5 pages"),
    "onebit.png": ((256, 256, 1), "uint8"),
    "palette64.png": ((256, 256, 3), "uint8"),
    "png_decompression_dos.png": (TooLargeError, "metadata"),
    "rgb16.png": ((256, 256, 3), "uint16"),
    "rgba.png": ((256, 256, 3), "uint8"),
    "text_named.png": (UnsupportedError, "not an image"),
    "tiff_16bit_RGB.tiff": ((40, 100, 3), "uint16"),
    "tiny_1x1.png": ((1, 1, 3), "uint8"),
    "tiny_2x3.png": ((3, 2, 3), "uint8"),
    "total-pages-zero.tif": (UnsupportedError, "1 bit"),
    "transparent.png": ((150, 200, 3), "uint8"),
    "truncated_half.jpg": (InputError, "cut short"),
    "truncated_half.png": (InputError, "cut short"),
    "truncated_half.tif": (InputError, "cut short"),
    "truncated_header_only.png": (InputError, "cut short"),
    "truncated_image.png": (InputError, "cut short"),
    "truncated_jpeg.jpg": (
        (100, 100, 3),
        "uint8",
    ),  # only the last byte of the end marker is missing
    "wrong_ext_png_named.jpg": ((256, 256, 3), "uint8"),
    "zero_byte.png": (InputError, "empty"),
    "zero_dim.png": (InputError, "0 x 10"),
    "ünïcode näme (1).png": ((256, 256, 3), "uint8"),
}

NEEDS_GEO = {name for name in EXPECTED if name.startswith(("crash-", "float32_nan", "int16_neg"))}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_awkward_files(shared_data, name):
    if name in NEEDS_GEO:
        pytest.importorskip("rasterio", reason="needs the extra geo")
    data = (shared_data / "bad" / name).read_bytes()
    outcome, detail = EXPECTED[name]
    if isinstance(outcome, tuple):
        image = read_image(data)
        assert image.pixels.shape == outcome
        assert image.pixels.dtype == detail
        header = probe(data)
        assert (header.height, header.width, header.channels) == outcome
        assert (header.bits, header.container) == (image.bits, image.container)
        again = read_image(write_image(image))
        assert again.pixels.shape == outcome
        if image.container != "jpeg":
            np.testing.assert_array_equal(again.pixels, image.pixels)
    else:
        with pytest.raises(outcome, match=detail) as caught:
            read_image(data)
        assert type(caught.value) is outcome


def test_every_awkward_file_has_an_expectation(shared_data):
    assert {path.name for path in (shared_data / "bad").iterdir()} == set(EXPECTED)


def test_no_domain_file_does_worse_than_an_input_error(shared_data):
    for path in (shared_data / "domain").rglob("*"):
        if path.is_file():
            try:
                read_image(path.read_bytes())
            except InputError:
                continue


def test_no_awkward_file_takes_memory_or_hangs(shared_data):
    """Each by the header and then whole, in a process that may grow by 50 MB and compute for a minute."""
    script = """
import pathlib, resource, sys
from rayscale.errors import InputError
from rayscale.imaging import probe, read_image
import imagecodecs, tifffile, PIL.JpegImagePlugin
try:
    import rasterio, rasterio.crs, rasterio.enums, rasterio.io, rasterio.shutil
except ImportError:
    pass
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    for function in (probe, read_image):
        try:
            function(data)
        except InputError:
            pass
    if peak() - before > 50 * 1024:
        sys.exit(f"{path.name}: {peak() - before} KB more than before the first file")
"""
    platform = Path(__file__).resolve().parents[2] / "platform"
    done = subprocess.run(
        [sys.executable, "-c", script, str(shared_data / "bad")],
        env={"PYTHONPATH": str(platform)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_tables_agree():
    assert MIME["png"] == "image/png"
    assert list(MIME) == list(CONTAINERS)
    assert EXTENSIONS[".jpg"] == EXTENSIONS[".jpeg"] == "jpeg"
    assert (
        EXTENSIONS[".tif"] == EXTENSIONS[".tiff"] == "tiff"
    )  # a GeoTIFF is told apart by its tags
    assert {*EXTENSIONS.values(), "geotiff"} == set(CONTAINERS)


@pytest.mark.parametrize("data", SAMPLES)
def test_sniffed_probed_read_and_written_alike(data):
    image = read_image(data)
    header = probe(data)
    assert sniff(data[:16]) == header.container == image.container
    assert (header.height, header.width) == BASE.shape[:2]
    assert write_image(image) == write_image(image)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(344) + b"ni1\0" + bytes(8), "NIfTI"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not an image"),
        (b"<VRTDataset>", "not an image"),
        (b"\0", "not an image"),
    ],
)
def test_other_formats_are_refused_by_name(data, message):
    assert sniff(data) is None
    for function in (probe, read_image):
        with pytest.raises(UnsupportedError, match=message):
            function(data)


def test_a_dicom_may_begin_like_a_tiff():
    assert sniff(b"II*\0" + bytes(124) + b"DICM" + bytes(40)) == "dicom"


@pytest.mark.parametrize("data", SAMPLES)
def test_the_limit_is_exact_and_named(data):
    read_image(data, max_pixels=24 * 20)
    with pytest.raises(
        TooLargeError, match=r"20 x 24 = 480 pixels.*479.*RAYSCALE_MAX_INPUT_PIXELS"
    ):
        read_image(data, max_pixels=24 * 20 - 1)


@given(st.binary(max_size=200))
def test_any_bytes_behind_a_signature(tail):
    webp = [b"RIFF\x40\0\0\0WEBP" + kind for kind in (b"", b"VP8 ", b"VP8L", b"VP8X")]
    for magic in (*(m for c in CONTAINERS.values() for m in c.magic), *webp):
        with pytest.raises(InputError):
            read_image(magic + tail)


@pytest.mark.parametrize(("container", "limit"), [("webp", 16_383), ("jpeg", 65_500)])
def test_a_side_that_a_container_cannot_hold_is_refused_before_any_work(
    container, limit, monkeypatch
):
    monkeypatch.setattr(Parts, "run", lambda *_: pytest.fail("the network was asked"))
    pixels = np.zeros((1, limit // 2 + 1, 3), np.uint8)
    with pytest.raises(
        TooLargeError, match=rf"{container.upper()} of {2 * (limit // 2 + 1)} x 2 .* {limit} "
    ):
        Upscaler(create_model("bicubic", scale=2), Options(scale=2)).upscale(
            Image(pixels, container)
        )
    with pytest.raises(TooLargeError, match=str(limit)):
        write_image(Image(np.zeros((limit + 1, 1, 3), np.uint8), container))


def test_image_checks_its_arrays():
    with pytest.raises(InputError, match="shape"):
        Image(np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="shape"):
        Image(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(UnsupportedError, match="float32"):
        Image(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(InputError, match="alpha"):
        Image(np.zeros((4, 4, 3), np.uint8), alpha=np.zeros((4, 5), np.uint8))
    with pytest.raises(UnsupportedError, match="'gif'"):
        Image(BASE, "gif")
    image = Image(BASE, text={"a": "b"})
    assert (image.bits, image.peak, image.channels) == (8, 255, 3)
    assert image.with_pixels(BASE[:5]).text == {"a": "b"}


@pytest.mark.parametrize("container", ["png", "jpeg", "tiff", "webp"])
def test_what_an_encoder_refuses_is_an_input_error(container):
    image = Image(np.zeros((4, 4, 3), np.uint8), container, text={"Software": "\ud800"})
    with pytest.raises(InputError, match=f"this {container.upper()} cannot be written"):
        write_image(image)
