"""DICOM against pydicom, highdicom's geometry and dciodvfy. Every file is made here, of a patient who must not be named."""

from __future__ import annotations

import io
import logging
import shutil
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging import Image, Provenance, probe, read_image, sniff, write_image
from rayscale.inference import Upscaler
from rayscale.models.registry import create_model
from rayscale.resampling import enlarge

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    SegmentationStorage,
    generate_uid,
)

RNG = np.random.default_rng(7)
PROVENANCE = Provenance("edsr/3", "0f" * 32, {"scale": 2})
PATIENT = "Mustermann^Erika"
OBLIQUE = [0.8, 0.6, 0.0, -0.48, 0.64, 0.6]


def scan(shape=(10, 12), dtype="int16", *, low=0, high=1500, **elements) -> Dataset:
    """A CT slice that dciodvfy takes, with ``elements`` in place of its own."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=["instance"])
    ds.StudyInstanceUID, ds.SeriesInstanceUID = (
        generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["series"]),
    )  # fmt: skip
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = (
        PATIENT,
        "P-4711",
        "19700101",
        "F",
    )
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240101", "120000", "1", "2"
    ds.ReferringPhysicianName, ds.PositionReferenceIndicator = "", ""
    ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = "CT", "ACME", 3, 4
    ds.ImageType, ds.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], "Thorax"
    ds.PatientPosition, ds.AcquisitionNumber, ds.KVP, ds.SliceThickness = "HFS", 1, "120", "3"
    ds.ImageOrientationPatient, ds.ImagePositionPatient = OBLIQUE, [-100.5, 20.25, 33.0]
    ds.PixelSpacing = [0.7, 0.5]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = [40, 400], [350, 1500]
    pixels = RNG.integers(low, high, shape).astype(dtype)
    ds.Rows, ds.Columns = shape[-2:] if len(shape) < 4 and shape[-1] != 3 else shape[-3:-1]
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    for name, value in elements.items():
        setattr(ds, name, value)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    return ds


def saved(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def compress(ds: Dataset, syntax: str) -> None:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    try:
        ds.compress(syntax, encoding_plugin="pylibjpeg")
    except RuntimeError as error:
        pytest.skip(f"no encoder: {error}")


def complaint(action: Callable[[], object]) -> str:
    """The text of the InputError that ``action`` ends with, if it does; any other exception fails the test."""
    try:
        action()
    except InputError as error:
        return f"{error} {error.__cause__ or ''}"
    return ""


def opened(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def upscaled(data: bytes, scale: int = 2, provenance: Provenance = PROVENANCE) -> bytes:
    image = Upscaler(create_model("bicubic", scale=scale), scale).upscale(read_image(data))
    return write_image(image, provenance)


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


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_corners_stay_in_the_patient(scale):
    spatial = pytest.importorskip("highdicom.spatial", reason="needs highdicom")
    before, after = opened(saved(scan())), opened(upscaled(saved(scan()), scale))
    corners = np.array([[0, 0], [12, 0], [0, 10], [12, 10]], float)
    old = spatial.ImageToReferenceTransformer.for_image(before)(corners)
    new = spatial.ImageToReferenceTransformer.for_image(after)(corners * scale)
    np.testing.assert_allclose(new, old, atol=1e-9)


def test_the_object_says_what_it_is():
    ds = scan(
        LossyImageCompression="01", LossyImageCompressionRatio="9", ImagerPixelSpacing=[1.4, 1.0],
        NominalScannedPixelSpacing=[2.8, 2.0], SmallestImagePixelValue=0, LargestImagePixelValue=1,
        InstanceCreationDate="20240101", IconImageSequence=[Dataset()],
    )  # fmt: skip
    ds.add_new(0x60003000, "OW", bytes(16))
    ds.private_block(0x11, "ACME", create=True).add_new(1, "LO", "kept")
    before, after = opened(saved(ds)), opened(upscaled(saved(ds)))
    for kept in (
        "StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "PatientName", "PatientID", "StudyDate",
        "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "ImageOrientationPatient",
        "LossyImageCompression", "LossyImageCompressionRatio", "SliceThickness", "InstanceNumber",
        "BitsStored", "PixelRepresentation", "PhotometricInterpretation",
    ):  # fmt: skip
        assert after[kept].value == before[kept].value, kept
    assert after[0x00111001].value == "kept"
    for new in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert after[new].value != before[new].value
        assert after[new].value.is_valid
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    assert after.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
    assert (after.Rows, after.Columns) == (20, 24)
    assert after.PixelSpacing == [0.35, 0.25]
    assert after.ImagerPixelSpacing == [0.7, 0.5]
    assert after.NominalScannedPixelSpacing == [1.4, 1.0]
    assert after.SmallestImagePixelValue == after.pixel_array.min()
    assert after.LargestImagePixelValue == after.pixel_array.max()
    for gone in ("InstanceCreationDate", "IconImageSequence"):
        assert gone not in after
    assert 0x60003000 not in after
    assert after.SeriesDescription == "Thorax [rayscale edsr/3, research use]"
    assert "x2 by edsr/3" in after.DerivationDescription
    assert after.DerivationCodeSequence[0].CodeValue == "113085"
    source = after.SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert source.ReferencedSOPClassUID == CTImageStorage
    equipment = after.ContributingEquipmentSequence[-1]
    assert equipment.ManufacturerModelName == "edsr/3"
    for word in ("0f" * 32, "Hounsfield", '"scale": 2'):
        assert word in equipment.ContributionDescription


def test_a_rerun_writes_the_same_object_and_a_series_stays_one():
    first, second = scan(), scan(SOPInstanceUID=generate_uid(entropy_srcs=["other"]))
    assert upscaled(saved(first)) == upscaled(saved(first))
    one, two = opened(upscaled(saved(first))), opened(upscaled(saved(second)))
    assert one.SeriesInstanceUID == two.SeriesInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID
    other = opened(upscaled(saved(first), provenance=Provenance("edsr/4", "1f" * 32)))
    assert other.SeriesInstanceUID != one.SeriesInstanceUID


def dciodvfy(data: bytes, path) -> set[str]:
    path.write_bytes(data)
    told = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (told.stdout + told.stderr).splitlines()
    assert any("CTImage" in line or "MRImage" in line for line in lines)
    return {line for line in lines if line.startswith("Error")}


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy (Debian dicom3tools)")
def test_dciodvfy_finds_no_new_errors(tmp_path):
    data = saved(scan())
    before = dciodvfy(data, tmp_path / "before.dcm")
    assert dciodvfy(upscaled(data), tmp_path / "after.dcm") <= before


def test_levels_are_those_of_a_series_not_of_a_slice():
    dark, bright = scan(high=10), scan(low=900)
    assert read_image(saved(dark)).levels == read_image(saved(bright)).levels
    assert read_image(saved(dark)).levels.black == (0,)  # -1024 HU
    assert read_image(saved(dark)).levels.white == (4095,)
    magnetic = scan(dtype="uint16", Modality="MR", BitsStored=12, HighBit=11)
    levels = read_image(saved(magnetic)).levels
    assert (levels.black, levels.white, levels.limits) == ((0,), (4095,), (0, 4095))
    assert levels.bits > 8


def test_stored_bits_bound_the_output_and_the_unused_are_dropped():
    ds = scan(dtype="uint16", Modality="MR", BitsStored=12, HighBit=11, high=0xFFFF)
    pixels = np.frombuffer(ds.PixelData, "u2").reshape(10, 12)
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


def test_every_frame_of_an_enhanced_object_stays_in_place():
    spatial = pytest.importorskip("highdicom.spatial", reason="needs highdicom")

    def item(**elements) -> Dataset:
        ds = Dataset()
        for name, value in elements.items():
            setattr(ds, name, value)
        return ds

    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.7, 0.5], SliceThickness=2)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=OBLIQUE)],
        MRImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"])],
    )
    frames = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[-100.5, 20.25, 3.0 * z])],
            DerivationImageSequence=[item(DerivationDescription="earlier")],
        )
        for z in range(3)
    ]
    ds = scan(
        (3, 10, 12), "uint16", SOPClassUID=EnhancedMRImageStorage, Modality="MR", NumberOfFrames=3,
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=frames,
    )  # fmt: skip
    for name in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
    ):
        del ds[name]
    before, after = opened(saved(ds)), opened(upscaled(saved(ds)))
    corners = np.array([[0, 0], [12, 0], [0, 10], [12, 10]], float)
    for number in (1, 2, 3):
        transform = spatial.ImageToReferenceTransformer.for_image
        np.testing.assert_allclose(
            transform(after, frame_number=number)(2 * corners),
            transform(before, frame_number=number)(corners),
            atol=1e-9,
        )
    shared = after.SharedFunctionalGroupsSequence[0]
    assert shared.MRImageFrameTypeSequence[0].FrameType == ["DERIVED", "SECONDARY", "M", "NONE"]
    derivation = shared.DerivationImageSequence[0]
    assert derivation.SourceImageSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert "DerivationImageSequence" not in after.PerFrameFunctionalGroupsSequence[0]


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


def test_a_derived_object_must_name_its_maker_and_its_source():
    image = read_image(saved(scan()))
    with pytest.raises(UnsupportedError, match="provenance"):
        write_image(image)
    with pytest.raises(UnsupportedError, match="geometry would be lost"):
        write_image(Image(**{**vars(image), "container": "png"}), PROVENANCE)
    with pytest.raises(UnsupportedError, match="from a DICOM object only"):
        write_image(Image(np.zeros((4, 4, 1), np.uint8), "dicom"), PROVENANCE)


def test_a_deflated_bomb_stays_small():
    data = saved(scan(), DeflatedExplicitVRLittleEndian)
    at = data.index(b"\x02\0\x10\0UI") + 8
    at += int.from_bytes(data[at - 2 : at], "little")
    while data[at : at + 2] == b"\x02\0":
        at += 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    head, body = data[:at], zlib.decompress(data[at:], -15)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [packer.compress(body)]
    # A private element of 400 MB behind the pixels.
    parts.append(packer.compress(b"\xe1\x7f\x10\x10OB\0\0" + (400 << 20).to_bytes(4, "little")))
    parts += [packer.compress(bytes(1 << 20)) for _ in range(400)]
    bomb = head + b"".join([*parts, packer.flush()])
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    probe(bomb)
    with pytest.raises(TooLargeError, match="inflates past"):
        read_image(bomb)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_header_bombs_and_endless_sequences_are_refused():
    with pytest.raises(TooLargeError, match="60000 x 60000"):
        read_image(saved(scan(Rows=60000, Columns=60000)))
    with pytest.raises(TooLargeError, match="x 2000000"):
        read_image(saved(scan(NumberOfFrames=2000000)))
    ds = scan()
    ds.add_new(0x00111010, "UN", b"\xfe\xff\x00\xe0\0\0\0\0" * 100_001)
    with pytest.raises(TooLargeError, match="100000 items"):
        read_image(saved(ds))
    nested = b""
    for _ in range(5000):
        nested = b"\x40\x00\x75\xa0SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + nested
    plain = saved(scan())
    pixels = plain.rindex(b"\xe0\x7f\x10\0OW")
    with pytest.raises(InputError):
        read_image(plain[:pixels] + nested)


def test_a_compressed_frame_cannot_claim_more_than_its_tags():
    ds = scan((40, 48))
    compress(ds, JPEG2000Lossless)
    data = bytearray(saved(ds, JPEG2000Lossless))
    at = data.index(b"\xff\x4f\xff\x51") + 8
    data[at : at + 4] = (60000).to_bytes(4, "big")
    with pytest.raises(InputError, match="60000 x 40 pixels"):
        read_image(bytes(data))


def test_an_error_of_a_library_loses_its_text(monkeypatch):
    def gossip(*_, **__):
        raise ValueError(f"could not convert {PATIENT}")

    monkeypatch.setattr(pydicom.pixels, "pixel_array", gossip)
    said = complaint(partial(read_image, saved(scan())))
    assert "ValueError" in said
    assert "Muster" not in said


def test_a_warning_of_a_library_is_not_heard(monkeypatch, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    decode = pydicom.pixels.pixel_array

    def gossip(dataset):
        warnings.warn_explicit(PATIENT, UserWarning, "valuerep.py", 1, "pydicom.valuerep")
        logging.getLogger("pydicom").error(PATIENT)
        return decode(dataset)

    monkeypatch.setattr(pydicom.pixels, "pixel_array", gossip)
    read_image(saved(scan()))
    assert not recwarn.list
    assert not caplog.records


def test_damage_never_names_the_patient():
    data = saved(scan())
    complaints = [complaint(partial(read_image, data[:end])) for end in range(140, len(data), 97)]
    assert all(
        "damaged" in said or "cut short" in said or "no image" in said for said in complaints
    )
    assert "Muster" not in " ".join(complaints)


def test_damaged_bytes_are_an_input_error():
    data = saved(scan())
    for _ in range(300):
        damaged = bytearray(data)
        for at in RNG.integers(132, len(data), 6):
            damaged[at] = RNG.integers(256)
        said = complaint(partial(read_image, bytes(damaged), max_pixels=100_000))
        assert "Muster" not in said
        if not said:
            image = read_image(bytes(damaged), max_pixels=100_000)
            header = probe(bytes(damaged))
            assert (header.height, header.width) == (image.height, image.width)


def test_the_missing_extra_is_named(monkeypatch):
    data = saved(scan())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'rayscale\[medical\]'"):
        read_image(data)


READ = {
    "CT_small.dcm", "CT_small_4frame_int16.dcm", "CT_small_MONOCHROME1.dcm", "CT_small_multi_window.dcm",
    "JPEG2000.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "SC_rgb_rle_16bit.dcm",
    "examples_overlay.dcm", "image_dfl.dcm", "nibabel_mr_256.dcm",
}  # fmt: skip


def test_real_objects(shared_data, tmp_path):
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
        if shutil.which("dciodvfy") and path.name in ("CT_small.dcm", "MR_small.dcm"):
            found = dciodvfy(upscaled(data), tmp_path / path.name)
            assert found <= dciodvfy(data, tmp_path / path.name)
