"""DICOM against pydicom: pixels of every transfer syntax, levels, padding, frames, and what is refused by name."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image as Pillow

from rayscale.errors import InputError, UnsupportedError
from rayscale.imaging import probe, read_image, sniff
from rayscale.resampling import enlarge

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    SegmentationStorage,
)
from tests.imaging.dicom_objects import compress, opened, saved, scan, upscaled  # noqa: E402


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless,
    ],
)  # fmt: skip
def test_pixels_of_every_transfer_syntax(syntax):
    ds = scan((40, 48))
    expected = np.frombuffer(ds.PixelData, "i2").reshape(40, 48, 1)
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = expected.byteswap().tobytes()
    if syntax in (RLELossless, JPEG2000Lossless):
        compress(ds, syntax)
    data = saved(ds, syntax)
    assert sniff(data[:200]) == probe(data).container == "dicom"
    image = read_image(data)
    np.testing.assert_array_equal(image.pixels, expected)
    result = opened(upscaled(data))
    assert result.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    wanted = enlarge(image.pixels[..., 0].astype(np.float64), 2)
    assert np.abs(result.pixel_array - wanted).max() <= 1


def test_elements_are_written_as_they_are_not_as_the_file_says():
    data = saved(scan(), ImplicitVRLittleEndian)
    at = data.index(b"\x02\0\x10\0UI")
    syntax = b"1.2.840.10008.1.2.1\0"
    size = int.from_bytes(data[at + 6 : at + 8], "little")
    lying = data[: at + 6] + len(syntax).to_bytes(2, "little") + syntax + data[at + 8 + size :]
    assert upscaled(lying) == upscaled(data)


def test_jpeg_ls_is_read_and_known_as_lossless():
    ds = scan((40, 48), "uint16", Modality="MR")
    expected = np.frombuffer(ds.PixelData, "u2").reshape(40, 48)
    compress(ds, JPEGLSLossless, "pyjpegls")
    data = saved(ds, JPEGLSLossless)
    np.testing.assert_array_equal(read_image(data).pixels[..., 0], expected)
    assert "LossyImageCompression" not in opened(upscaled(data))


def test_jpeg_is_read_and_what_was_lossy_says_so():
    grey = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint8) * 2
    stream = io.BytesIO()
    Pillow.fromarray(grey).save(stream, "JPEG", quality=95)
    ds = scan((40, 48), "uint8", high=255, Modality="MR")
    ds.PixelData = encapsulate([stream.getvalue()])
    ds["PixelData"].is_undefined_length = True
    data = saved(ds, JPEGBaseline8Bit)
    assert "LossyImageCompression" not in opened(data)
    pixels = read_image(data).pixels[..., 0]
    np.testing.assert_allclose(pixels, Pillow.open(stream), atol=1)
    np.testing.assert_allclose(pixels, grey, atol=4)
    assert opened(upscaled(data)).LossyImageCompression == "01"


def without(stream: bytes, *markers: int) -> bytes:
    """A JPEG less the segments of ``markers``."""
    kept, at = stream[:2], 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        kept += b"" if stream[at + 1] in markers else stream[at:end]
        at = end
    return kept + stream[at:]


JFIF, ADOBE = 0xE0, 0xEE
ADOBE_YCC = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x01"


@pytest.mark.parametrize(
    ("label", "how", "bare", "noted"),
    [
        ("RGB", {"subsampling": 2}, [JFIF], True),
        ("RGB", {"subsampling": 1}, [JFIF], True),
        ("RGB", {"subsampling": 2}, [], True),  # JFIF is YCbCr
        ("RGB", {"subsampling": 0, "adobe": True}, [JFIF], True),
        ("RGB", {"subsampling": 0, "keep_rgb": True}, [], False),
        ("RGB", {"subsampling": 0, "keep_rgb": True, "ids": b"\0\1\2"}, [ADOBE], False),
        ("YBR_FULL_422", {"subsampling": 0, "keep_rgb": True, "ids": b"\0\1\2"}, [], True),
        ("YBR_FULL", {"subsampling": 0, "keep_rgb": True}, [ADOBE], True),  # components R, G, B
        ("YBR_FULL_422", {"subsampling": 1}, [JFIF], False),
        ("YBR_FULL", {"subsampling": 0}, [JFIF], False),
    ],
)
def test_colours_are_those_of_the_stream_whatever_the_label_says(label, how, bare, noted):
    colours = np.zeros((32, 48, 3), np.uint8)
    colours[:, :16], colours[:, 16:32], colours[:, 32:] = (
        (230, 40, 30),
        (20, 200, 60),
        (90, 90, 220),
    )
    ids, adobe = how.get("ids"), how.get("adobe")
    save = {key: value for key, value in how.items() if key not in ("ids", "adobe")}
    out = io.BytesIO()
    Pillow.fromarray(colours).save(out, "JPEG", quality=95, **save)
    stream = without(out.getvalue(), *bare)
    if adobe:
        stream = stream[:2] + ADOBE_YCC + stream[2:]
    if ids:
        head, scan_ = stream.index(b"\xff\xc0") + 10, stream.index(b"\xff\xda") + 5
        changed = bytearray(stream)
        changed[head : head + 9 : 3] = changed[scan_ : scan_ + 6 : 2] = ids
        stream = bytes(changed)
    ds = scan(
        (32, 48, 3), "uint8", high=255, SamplesPerPixel=3, PhotometricInterpretation=label, PlanarConfiguration=0,
    )  # fmt: skip
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    image = read_image(saved(ds, JPEGBaseline8Bit))
    middles = (slice(None), [8, 24, 40])
    np.testing.assert_allclose(image.pixels[middles], colours[middles], atol=4)
    assert bool(image.notes) is noted
    result = opened(upscaled(saved(ds, JPEGBaseline8Bit)))
    assert result.PhotometricInterpretation == "RGB"


def test_frames_of_two_colour_spaces_are_refused():
    streams = []
    for rgb in (True, False):
        out = io.BytesIO()
        Pillow.new("RGB", (16, 16), "red").save(out, "JPEG", subsampling=0, keep_rgb=rgb)
        streams.append(out.getvalue())
    ds = scan(
        (2, 16, 16, 3), "uint8", high=255, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0,
        NumberOfFrames=2,
    )  # fmt: skip
    ds.PixelData = encapsulate(streams)
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(UnsupportedError, match="mixes frames of RGB and of YCbCr"):
        read_image(saved(ds, JPEGBaseline8Bit))


def mosaic(kind: str):
    """Slices side by side, as scanners of two vendors write them."""
    if kind == "United Imaging":
        ds = scan(Modality="MR", Manufacturer="UIH")
        ds.private_block(0x0065, "Image Private Header", create=True).add_new(0x50, "DS", "7")
        return ds
    ds = scan(Modality="MR", Manufacturer="SIEMENS")
    if kind == "Siemens XA":
        block = ds.private_block(0x0021, "SIEMENS MR SDI 02", create=True)
        block.add_new(0x75, "LO", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
        # The block is the first of its group; scanners use 0x11.
        ds.add_new((0x0021, 0x1175), "LO", block[0x75].value)
        return ds
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    return ds


@pytest.mark.parametrize("door", [probe, read_image])
@pytest.mark.parametrize("kind", ["Siemens", "Siemens XA", "United Imaging"])
def test_slices_side_by_side_are_refused(kind, door):
    with pytest.raises(UnsupportedError, match=r"side by side.*dcm2niix"):
        door(saved(mosaic(kind)))


def test_frames_that_were_slices_of_a_mosaic_are_read():
    """Siemens XA leaves the image type when it makes frames of them."""
    frames = scan((4, 10, 12), NumberOfFrames=4, ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"])
    assert read_image(saved(frames)).frames == 4


def test_levels_are_those_of_a_series_not_of_a_slice():
    dark, bright = scan(high=10), scan(low=900)
    assert read_image(saved(dark)).levels == read_image(saved(bright)).levels
    assert read_image(saved(dark)).levels.black == (0,)  # -1024 HU
    assert read_image(saved(dark)).levels.white == (4095,)
    magnetic = scan(dtype="uint16", Modality="MR", BitsStored=12, HighBit=11)
    magnetic.SmallestPixelValueInSeries, magnetic.LargestPixelValueInSeries = 3, 1800
    levels = read_image(saved(magnetic)).levels
    assert (levels.black, levels.white, levels.limits) == ((3,), (1800,), (0, 4095))
    assert levels.bits > 8


def test_levels_of_an_object_that_says_nothing_of_its_series_are_measured():
    magnetic = scan(dtype="uint16", Modality="MR", BitsStored=12, HighBit=11)
    image = read_image(saved(magnetic))
    values = np.sort(image.pixels.ravel())
    assert (image.levels.black, image.levels.white) == ((values[0],), (values[-1],))
    assert image.levels.limits == (0, 4095)


def test_stored_bits_bound_the_output_and_the_unused_are_dropped():
    ds = scan(dtype="uint16", Modality="MR", BitsStored=12, HighBit=11, high=0xFFFF)
    pixels = np.frombuffer(ds.PixelData, "u2").reshape(10, 12).copy()
    pixels[:, :6], pixels[:, 6:] = 0xF000, 0xFFFF  # an edge that overshoots
    ds.PixelData = pixels.tobytes()
    np.testing.assert_array_equal(read_image(saved(ds)).pixels[..., 0], pixels & 0xFFF)
    result = opened(upscaled(saved(ds)))
    assert result.pixel_array.max() == 0xFFF
    signed = scan(dtype="int16", BitsStored=12, HighBit=11)
    signed.PixelData = np.full((10, 12), 0x0FFF, "u2").tobytes()
    assert (read_image(saved(signed)).pixels == -1).all()


def test_monochrome1_is_bright_where_values_are_small():
    normal, inverse = scan(), scan(PhotometricInterpretation="MONOCHROME1")
    levels, inverted = read_image(saved(normal)).levels, read_image(saved(inverse)).levels
    assert (inverted.black, inverted.white) == (levels.white, levels.black)
    inverse.PixelData = normal.PixelData
    np.testing.assert_allclose(
        opened(upscaled(saved(normal))).pixel_array.astype(int),
        opened(upscaled(saved(inverse))).pixel_array,
        atol=1,
    )


def test_padding_is_kept_and_spoils_nothing():
    ds = scan(low=100, high=101, PixelPaddingValue=-2000)
    pixels = np.frombuffer(ds.PixelData, "i2").reshape(10, 12).copy()
    pixels[:, :3] = -2000
    ds.PixelData = pixels.tobytes()
    result = opened(upscaled(saved(ds))).pixel_array
    assert (result[:, :6] == -2000).all()
    assert (result[:, 6:] == 100).all()


@pytest.mark.parametrize(("dtype", "padding"), [("uint16", 4095), ("int16", 2047)])
def test_measured_pixels_step_aside_for_padding_within_the_stored_bits(dtype, padding):
    """One step up is a bit that is not stored: the brightest became 0."""
    ds = scan(dtype=dtype, Modality="MR", BitsStored=12, HighBit=11, PixelPaddingValue=padding)
    pixels = np.full((10, 12), padding - 1, dtype)
    pixels[:, 6:] = 0  # beside which the interpolation overshoots
    pixels[:, :3] = padding
    ds.PixelData = pixels.tobytes()
    result = opened(upscaled(saved(ds))).pixel_array
    assert (result[:, :6] == padding).all()
    assert (result[:, 6:] < padding).all()
    assert (result[:, 6:11] == padding - 1).all()


def test_no_measured_pixel_falls_into_the_range_of_padding():
    ds = scan(low=0, high=1, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1)
    pixels = np.zeros((10, 12), "i2")
    pixels[:, :3], pixels[:, 6:] = -1500, 900  # the interpolation undershoots beside the edge
    ds.PixelData = pixels.tobytes()
    result = opened(upscaled(saved(ds))).pixel_array
    assert (result[:, :6] == -1500).all()
    assert (result[:, 6:] >= 0).all()
    del ds.PixelPaddingRangeLimit
    pixels[:, :3] = -2000
    ds.PixelData = pixels.tobytes()
    assert opened(upscaled(saved(ds))).pixel_array[:, 6:].min() < 0  # as the range would have it


@pytest.mark.parametrize("limit", [None, 63546])
def test_padding_of_the_wrong_sign_is_padding(limit):
    ds = scan(low=100, high=101)
    pixels = np.frombuffer(ds.PixelData, "i2").reshape(10, 12).copy()
    pixels[:, :3] = -2000  # 63536 as unsigned
    if limit:
        pixels[0, :3] = -1990, -1996, -2000
        ds.add_new("PixelPaddingRangeLimit", "US", limit)
    ds.PixelData = pixels.tobytes()
    ds.add_new("PixelPaddingValue", "US", 63536)
    result = opened(upscaled(saved(ds))).pixel_array
    np.testing.assert_array_equal(result, pixels.repeat(2, 0).repeat(2, 1))
    unsigned = scan(dtype="uint16", low=100, high=101)
    unsigned.PixelData = pixels.tobytes()
    for name, value in (("Value", -2000), ("RangeLimit", limit and -1990)):
        if value:
            unsigned.add_new(f"PixelPadding{name}", "SS", value)
    result = opened(upscaled(saved(unsigned))).pixel_array
    np.testing.assert_array_equal(result, pixels.view("u2").repeat(2, 0).repeat(2, 1))


def test_an_empty_padding_limit_limits_nothing():
    ds = scan(low=100, high=101, PixelPaddingValue=100, PixelPaddingRangeLimit=None)
    assert read_image(saved(ds)).missing.everything


def test_frames_and_colours():
    ds = scan((4, 10, 12), NumberOfFrames=4)
    assert probe(saved(ds)).slices == 4
    result = opened(upscaled(saved(ds)))
    assert result.pixel_array.shape == (4, 20, 24)
    single = scan()
    single.PixelData = ds.pixel_array[2].tobytes()
    np.testing.assert_array_equal(
        result.pixel_array[2], opened(upscaled(saved(single))).pixel_array
    )
    colour = scan(
        (10, 12, 3), "uint8", high=255, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0,
    )  # fmt: skip
    assert read_image(saved(colour)).pixels.shape == (10, 12, 3)
    result = opened(upscaled(saved(colour)))
    assert result.pixel_array.shape == (20, 24, 3)
    assert result.PhotometricInterpretation == "RGB"


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"SOPClassUID": SegmentationStorage}, "Segmentation Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "RT Dose Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, "Basic Text SR Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.6"}, "whole-slide"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette"),
        ({"PhotometricInterpretation": "HSV"}, "neither"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "1 of 1 bits"),
        ({"BitsStored": 12}, "up to bit 15"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(elements, message):
    with pytest.raises(UnsupportedError, match=message):
        read_image(saved(scan(**elements)))


def test_objects_without_pixels_and_videos_are_refused():
    ds = scan()
    del ds.PixelData
    with pytest.raises(InputError, match="before its pixels"):
        read_image(saved(ds))
    del ds.Rows
    with pytest.raises(UnsupportedError, match="holds no image"):
        read_image(saved(ds))
    video = saved(scan())
    syntax = b"1.2.840.10008.1.2.4.102\0"
    at = video.index(b"\x02\0\x10\0UI")
    size = int.from_bytes(video[at + 6 : at + 8], "little")
    video = video[: at + 6] + len(syntax).to_bytes(2, "little") + syntax + video[at + 8 + size :]
    with pytest.raises(UnsupportedError, match="video"):
        read_image(video)


def test_the_missing_extra_is_named(monkeypatch):
    data = saved(scan())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'rayscale\[medical\]'"):
        read_image(data)


READ = {
    "CT_small.dcm", "CT_small_4frame_int16.dcm", "CT_small_MONOCHROME1.dcm", "CT_small_multi_window.dcm",
    "JPEG2000.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "SC_rgb_rle_16bit.dcm",
    "examples_overlay.dcm", "image_dfl.dcm",
}  # fmt: skip


def test_real_objects(shared_data):
    for path in sorted((shared_data / "domain/medical/dicom").glob("*.dcm")):
        data = path.read_bytes()
        if path.name not in READ:
            with pytest.raises(InputError):
                read_image(data)
            continue
        before, after = opened(data), opened(upscaled(data))
        assert after.pixel_array.shape[-2:] != before.pixel_array.shape[-2:]
        assert after.PatientID == before.PatientID
        assert not [tag for tag in after.keys() if tag.group == 0x6000]  # noqa: SIM118
