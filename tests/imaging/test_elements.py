"""DICOM elements that are computed with: of the right type whatever the writer gave them, or refused by keyword."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from rayscale.errors import InputError, UnsupportedError
from rayscale.imaging import probe, read_image, write_image

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian  # noqa: E402
from tests.imaging.dicom_objects import (  # noqa: E402
    PATIENT,
    PROVENANCE,
    complaint,
    opened,
    saved,
    scan,
    upscaled,
)


def written(name: str, vr: str, value, **elements) -> bytes:
    """A scan one element of which has another type."""
    ds = scan(**elements)
    ds.add_new(name, vr, value)
    return saved(ds)


def filled(**elements) -> Dataset:
    """A scan of the same pixels each time."""
    ds = scan(**{"BitsStored": 12, "HighBit": 11, **elements})
    ds.PixelData = (np.arange(120, dtype="i2") * 9).tobytes()
    return ds


@pytest.mark.parametrize(
    ("name", "vr", "value", "right"),
    [
        ("PixelSpacing", "LO", ["0.700", "0.500"], [0.7, 0.5]),
        ("PixelSpacing", "UT", "0.700\\0.500", [0.7, 0.5]),  # not split by pydicom
        ("PixelSpacing", "FD", [0.7, 0.5], [0.7, 0.5]),
        ("ImagePositionPatient", "ST", "-100.5\\20.25\\33", [-100.5, 20.25, 33]),
        ("ImageOrientationPatient", "LO", ["1", "0", "0", "0", "1", "0"], [1, 0, 0, 0, 1, 0]),
        ("ImagerPixelSpacing", "SH", ["0.2", "0.1"], [0.2, 0.1]),
        ("RescaleSlope", "LO", "2", 2),
        ("RescaleIntercept", "FL", -1000.0, -1000),
        ("ShutterLeftVerticalEdge", "US", 3, 3),
        ("BitsStored", "IS", "12", 12),
        ("Modality", "LO", "CT", "CT"),
        ("PhotometricInterpretation", "UT", "MONOCHROME1", "MONOCHROME1"),
        ("ImageType", "LT", "DERIVED\\PRIMARY\\AXIAL", ["DERIVED", "PRIMARY", "AXIAL"]),
        ("StudyInstanceUID", "LO", "1.2.3", "1.2.3"),
    ],
)
def test_an_element_of_another_type_means_the_same(name, vr, value, right):
    ds, other = filled(), filled()
    setattr(ds, name, right)
    other.add_new(name, vr, value)
    normal, wrong = saved(ds), saved(other)
    assert read_image(wrong).levels == read_image(normal).levels
    expected, result = opened(upscaled(normal)), opened(upscaled(wrong))
    assert result[name].VR == expected[name].VR != vr
    for element in ("PixelSpacing", "ImagePositionPatient", name):
        assert result[element].value == expected[element].value
    np.testing.assert_array_equal(result.pixel_array, expected.pixel_array)


def test_elements_of_functional_groups_are_mended_too():
    def enhanced(vr: str, value) -> bytes:
        measures, shared = Dataset(), Dataset()
        measures.add_new("PixelSpacing", vr, value)
        shared.PixelMeasuresSequence = [measures]
        ds = scan((4, 10, 12), NumberOfFrames=4, SharedFunctionalGroupsSequence=[shared])
        del ds.PixelSpacing
        return saved(ds)

    groups = opened(upscaled(enhanced("UT", "0.700\\0.500"))).SharedFunctionalGroupsSequence
    assert groups[0].PixelMeasuresSequence[0].PixelSpacing == [0.35, 0.25]
    with pytest.raises(InputError, match="PixelSpacing is damaged"):
        read_image(enhanced("UT", "0.700 by 0.500"))


@pytest.mark.parametrize("name", ["SmallestImagePixelValue", "LargestImagePixelValue"])
@pytest.mark.parametrize(("dtype", "vr"), [("int16", "SS"), ("uint16", "US")])
def test_least_and_greatest_values_have_the_sign_of_the_pixels(name, dtype, vr):
    """Signed scans whose values were called unsigned could not be written, after the work was done."""
    other = {"SS": "US", "US": "SS"}[vr]
    pixels = {"int16": {"low": -1000, "high": -900}, "uint16": {"low": 64000, "high": 64500}}[dtype]
    source = {"US": 64536, "SS": -1000}[other]
    result = opened(upscaled(written(name, other, source, dtype=dtype, **pixels)))
    assert vr == result[name].VR
    function = np.min if name.startswith("Smallest") else np.max
    assert result[name].value == function(result.pixel_array)


@pytest.mark.parametrize(
    ("dtype", "vr", "right"), [("int16", "US", -2000), ("uint16", "SS", 63536)]
)
def test_padding_is_written_with_the_sign_of_the_pixels(dtype, vr, right):
    value = {"US": 63536, "SS": -2000}[vr]
    ds = scan(dtype=dtype)
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        ds.add_new(name, vr, value)
    result = opened(upscaled(saved(ds)))
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        assert (result[name].VR, result[name].value) == ({"US": "SS", "SS": "US"}[vr], right)


@pytest.mark.parametrize("door", [probe, read_image])
@pytest.mark.parametrize(
    ("name", "vr", "value"),
    [
        ("PixelSpacing", "LO", ["Muster", "0.5"]),
        ("PixelSpacing", "DS", "0.5"),
        ("PixelSpacing", "LO", ["nan", "0.5"]),
        ("PixelSpacing", "SQ", []),
        ("ImagePositionPatient", "LO", ["1", "2"]),
        ("ImageOrientationPatient", "LO", "inf\\0\\0\\0\\1\\0"),
        ("RescaleSlope", "LO", "Muster"),
        ("Rows", "LO", "Muster"),
        ("Rows", "US", [10, 10]),
        ("Rows", "FD", 10.5),
        ("BitsStored", "OB", b"\xff\xff"),
        ("NumberOfFrames", "LO", "Muster"),
        ("PixelPaddingValue", "LO", "Muster"),
        ("ShutterLeftVerticalEdge", "LO", "Muster"),
        ("SeriesDescription", "PN", "Muster"),
        ("SeriesInstanceUID", "FD", 1.5),
        ("ImageType", "OB", b"Muster"),
    ],
)
def test_an_error_names_the_element_and_no_value(door, name, vr, value):
    said = complaint(partial(door, written(name, vr, value)))
    if vr == "SQ":  # empty: there is none
        assert not said
        return
    assert f"DICOM element {name} is damaged" in said
    assert "Muster" not in said


@pytest.mark.parametrize(
    "name",
    [
        "SamplesPerPixel", "NumberOfFrames", "BitsStored", "HighBit", "PixelRepresentation", "PixelSpacing",
        "RescaleSlope", "PixelPaddingValue", "ImagePositionPatient", "SmallestImagePixelValue",
    ],
)  # fmt: skip
def test_an_empty_element_is_as_good_as_none(name):
    elements = {"PixelRepresentation": 0, "BitsStored": 16, "HighBit": 15}
    present, absent = filled(**elements), filled(**elements)
    setattr(present, name, None)
    if name in absent:
        delattr(absent, name)
    assert probe(saved(present)) == probe(saved(absent))
    result, expected = opened(upscaled(saved(present))), opened(upscaled(saved(absent)))
    np.testing.assert_array_equal(result.pixel_array, expected.pixel_array)


@pytest.mark.parametrize("name", ["Rows", "Columns", "BitsAllocated"])
def test_an_image_has_a_size(name):
    for door in (probe, read_image):
        with pytest.raises(UnsupportedError, match="holds no image"):
            door(saved(scan(**{name: None})))


def test_a_sequence_of_frames_must_be_one():
    ds = scan()
    ds.add_new("PerFrameFunctionalGroupsSequence", "LO", "Muster")
    said = complaint(partial(read_image, saved(ds)))
    assert "PerFrameFunctionalGroupsSequence is damaged" in said
    assert "Muster" not in said


@pytest.mark.parametrize("name", ["SOPInstanceUID", "SOPClassUID"])
@pytest.mark.parametrize("missing", [True, False])
def test_the_identity_of_an_object_may_stand_in_its_file_meta(name, missing):
    whole, ds = filled(), filled()
    normal = saved(whole)
    if missing:
        delattr(ds, name)
    else:
        setattr(ds, name, "")
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID
    ds.preamble = bytes(128)

    def encoded() -> bytes:
        out = pydicom.filebase.DicomBytesIO()
        pydicom.dcmwrite(out, ds)
        return out.getvalue()

    assert upscaled(encoded()) == upscaled(normal)
    delattr(ds.file_meta, f"MediaStorage{name}")
    for door in (probe, read_image):
        with pytest.raises(InputError, match=f"neither {name} nor MediaStorage{name}"):
            door(encoded())


def test_pixels_that_are_cut_short_are_counted():
    ds = scan()
    ds.PixelData = ds.PixelData[:-20]
    with pytest.raises(InputError, match=r"promise 240 bytes of pixels, 220 are there"):
        read_image(saved(ds))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_elements_that_nobody_computes_with_are_kept_however_damaged(syntax):
    """To write them in another encoding the library reads them, and refused the file for the tube voltage."""
    ds = scan(KVP="120")
    item = Dataset()
    item.KVP = "130"
    ds.SourceImageSequence = [item]
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "i2").byteswap().tobytes()
    data = saved(ds, syntax)
    for value in (b"120 ", b"130 "):
        assert data.count(value) == 1
        data = data.replace(value, b"1,2k")
    result = opened(upscaled(data))
    assert result.get_item("KVP").value == b"1,2k"
    assert result.PatientName == PATIENT


def test_what_a_writer_cannot_write_is_named():
    ds = scan()
    ds.add_new("AcquisitionMatrix", "US", [1, 2, 3, 4])
    image = read_image(saved(ds, ImplicitVRLittleEndian))
    image.metadata.dataset.AcquisitionMatrix = "Muster"
    said = complaint(partial(write_image, image, PROVENANCE))
    assert "its element AcquisitionMatrix" in said
    assert "Muster" not in said
