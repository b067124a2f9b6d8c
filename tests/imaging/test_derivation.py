"""Derived DICOM objects against highdicom's geometry and dciodvfy: identity, place, and what they say of themselves."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rayscale.errors import InputError, UnsupportedError
from rayscale.imaging import Image, Provenance, read_image, write_image

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    EnhancedUSVolumeStorage,
    ExplicitVRLittleEndian,
    NuclearMedicineImageStorage,
    OphthalmicPhotography8BitImageStorage,
    PositronEmissionTomographyImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLPhotographicImageStorage,
    generate_uid,
)
from tests.imaging.dicom_objects import OBLIQUE, PROVENANCE, opened, saved, scan, upscaled  # noqa: E402


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


def item(**elements) -> Dataset:
    ds = Dataset()
    for name, value in elements.items():
        setattr(ds, name, value)
    return ds


def enhanced_mr() -> Dataset:
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
    return ds


def test_every_frame_of_an_enhanced_object_stays_in_place():
    spatial = pytest.importorskip("highdicom.spatial", reason="needs highdicom")

    data = saved(enhanced_mr())
    before, after = opened(data), opened(upscaled(data))
    corners = np.array([[0, 0], [12, 0], [0, 10], [12, 10]], float)
    for number in (1, 2, 3):
        transform = spatial.ImageToReferenceTransformer.for_image
        np.testing.assert_allclose(
            transform(after, frame_number=number)(2 * corners),
            transform(before, frame_number=number)(corners),
            atol=1e-9,
        )
    shared = after.SharedFunctionalGroupsSequence[0]
    assert shared.MRImageFrameTypeSequence[0].FrameType == ["DERIVED", "PRIMARY", "M", "NONE"]
    derivation = shared.DerivationImageSequence[0]
    assert derivation.SourceImageSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert "DerivationImageSequence" not in after.PerFrameFunctionalGroupsSequence[0]
    study = after.SourceImageEvidenceSequence[0]
    assert study.StudyInstanceUID == before.StudyInstanceUID
    series = study.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == before.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID


def ultrasound_volume() -> Dataset:
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.7, 0.5], SliceThickness=2)],
        PlaneOrientationVolumeSequence=[item(ImageOrientationVolume=OBLIQUE)],
    )
    frames = [
        item(PlanePositionVolumeSequence=[item(ImagePositionVolume=[1.0, 2.0, 3.0 * z])])
        for z in range(3)
    ]
    return scan(
        (3, 10, 12), "uint8", high=255, SOPClassUID=EnhancedUSVolumeStorage, Modality="US", NumberOfFrames=3,
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=frames,
    )  # fmt: skip


def test_an_ultrasound_volume_stays_in_place():
    after = opened(upscaled(saved(ultrasound_volume()), 4))
    # Centre of the first of four small pixels: 3/8 of an old one before that of the old one.
    along_row, along_column = np.array(OBLIQUE[:3]), np.array(OBLIQUE[3:])
    for z, frame in enumerate(after.PerFrameFunctionalGroupsSequence):
        np.testing.assert_allclose(
            frame.PlanePositionVolumeSequence[0].ImagePositionVolume,
            [1, 2, 3 * z] - 3 / 8 * (0.5 * along_row + 0.7 * along_column),
            atol=1e-12,
        )


@pytest.mark.parametrize("scale", [1.5, 2, 3, 4])
def test_ultrasound_regions_keep_their_physical_coordinates(scale):
    region = item(
        RegionLocationMinX0=2, RegionLocationMinY0=1, RegionLocationMaxX1=11, RegionLocationMaxY1=8,
        ReferencePixelX0=5, ReferencePixelY0=-3, ReferencePixelPhysicalValueX=0.25,
        ReferencePixelPhysicalValueY=-1.5, PhysicalDeltaX=0.1, PhysicalDeltaY=-0.2,
        PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, DopplerSampleVolumeXPosition=4,
        DopplerSampleVolumeYPosition=-2, TMLinePositionX0=-2, TMLinePositionY0=6, TMLinePositionX1=2,
        TMLinePositionY1=8,
    )  # fmt: skip
    ds = scan(SequenceOfUltrasoundRegions=[region])
    after = opened(upscaled(saved(ds), scale)).SequenceOfUltrasoundRegions[0]
    assert after.RegionLocationMaxX1 == {1.5: 17, 2: 23, 3: 35, 4: 47}[scale]

    def edges(region: Dataset, axis: str, size: float) -> np.ndarray:
        """Physical coordinates of the edges of the image, by C.8.5.5.1.16 and 17."""
        from_region = np.array([-0.5, size - 0.5]) - region[f"RegionLocationMin{axis}0"].value
        offset = from_region - region[f"ReferencePixel{axis}0"].value
        value = region[f"ReferencePixelPhysicalValue{axis}"].value
        return value + offset * region[f"PhysicalDelta{axis}"].value

    for axis, size in (("X", 12), ("Y", 10)):
        np.testing.assert_allclose(
            edges(after, axis, size * scale), edges(region, axis, size), atol=1e-12
        )
    for name in (
        "DopplerSampleVolumeXPosition", "DopplerSampleVolumeYPosition", "TMLinePositionX0",
        "TMLinePositionY0", "TMLinePositionX1", "TMLinePositionY1", "RegionLocationMinX0",
    ):  # fmt: skip
        assert after[name].value == region[name].value * scale, name


def test_a_reference_pixel_without_values_is_the_nearest():
    region = item(ReferencePixelX0=5, ReferencePixelPhysicalValueY=1.5, PhysicalDeltaX=None)
    after = opened(upscaled(saved(scan(SequenceOfUltrasoundRegions=[region])), 3))
    region = after.SequenceOfUltrasoundRegions[0]
    assert region.ReferencePixelX0 == 16  # the middle one of 15, 16, 17
    assert region.ReferencePixelPhysicalValueY == 1.5
    assert region.PhysicalDeltaX is None


EMPTY = (
    "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "CenterOfCircularShutter",
    "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter", "ShutterLeftVerticalEdge",
    "ImagePositionPatient", "ImageOrientationPatient", "SharedFunctionalGroupsSequence",
    "DetectorInformationSequence", "SmallestImagePixelValue", "ImageType", "PixelPaddingValue",
    "ContributingEquipmentSequence", "SeriesDescription", "LossyImageCompression",
)  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_value_is_no_damage(name):
    ds = scan()
    setattr(ds, name, [] if name.endswith("Sequence") else None)
    after = opened(upscaled(saved(ds)))
    assert after.Rows == 20
    if name in EMPTY[:9]:
        assert not after[name].value


@pytest.mark.parametrize("what", ["Shutter", "Collimator"])
def test_shutters_and_collimators_are_counted_in_the_new_pixels(what):
    counted = {
        f"CenterOfCircular{what}": [5, 6], f"RadiusOfCircular{what}": 4,
        f"VerticesOfThePolygonal{what}": [1, 1, 1, 12, 10, 12], f"{what}LeftVerticalEdge": 2,
        f"{what}RightVerticalEdge": 11, f"{what}UpperHorizontalEdge": 1, f"{what}LowerHorizontalEdge": 9,
    }  # fmt: skip
    shape = {f"{what}Shape": ["RECTANGULAR", "CIRCULAR", "POLYGONAL"]}
    after = opened(upscaled(saved(scan(**shape, **counted)), 3))
    for name, value in counted.items():
        np.testing.assert_allclose(after[name].value, np.multiply(value, 3), atol=1.5)


def test_a_detector_keeps_its_place():
    """X-ray 3D images tell where the detector was: by its own position and orientation, in the image's spacing."""
    detector = item(ImagePositionPatient=[1, 2, 3], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    after = opened(upscaled(saved(scan(DetectorInformationSequence=[detector]))))
    np.testing.assert_allclose(
        after.DetectorInformationSequence[0].ImagePositionPatient,
        [1 - 0.5 / 4, 2 - 0.7 / 4, 3],
    )
    assert after.PixelSpacing == [0.35, 0.25]


def test_a_derived_object_must_name_its_maker_and_its_source():
    image = read_image(saved(scan()))
    with pytest.raises(UnsupportedError, match="provenance"):
        write_image(image)
    with pytest.raises(UnsupportedError, match="geometry would be lost"):
        write_image(Image(**{**vars(image), "container": "png"}), PROVENANCE)
    with pytest.raises(UnsupportedError, match="can only be made from a DICOM object"):
        write_image(Image(np.zeros((4, 4, 1), np.uint8), "dicom"), PROVENANCE)


PRIMARY_ONLY = (
    NuclearMedicineImageStorage, PositronEmissionTomographyImageStorage, EnhancedMRImageStorage,
    OphthalmicPhotography8BitImageStorage,
)  # fmt: skip


@pytest.mark.parametrize("sop_class", [CTImageStorage, *PRIMARY_ONLY])
@pytest.mark.parametrize(
    "types", [["ORIGINAL", "PRIMARY", "AXIAL"], ["ORIGINAL", "", "AXIAL"], ["ORIGINAL"], None]
)
def test_a_class_of_primary_images_has_no_secondary_ones(sop_class, types):
    ds = enhanced_mr() if sop_class == EnhancedMRImageStorage else scan(SOPClassUID=sop_class)
    ds.ImageType = types
    second = "PRIMARY" if sop_class in PRIMARY_ONLY else "SECONDARY"
    rest = (types or [])[2:]
    assert opened(upscaled(saved(ds))).ImageType == ["DERIVED", second, *rest]


PYDICOM_FILES = Path(pydicom.__file__).parent / "data/test_files"


def dciodvfy(data: bytes, path: Path) -> set[str]:
    path.write_bytes(data)
    told = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (told.stdout + told.stderr).splitlines()
    assert not any("read failed" in line or "Object Not found" in line for line in lines)
    return {line for line in lines if line.startswith("Error")}


def legacy_enhanced_ct() -> Dataset:
    """Three slices in one object, as highdicom converts them."""
    legacy = pytest.importorskip("highdicom.legacy", reason="needs highdicom")
    slices = [
        opened(saved(scan(
            SOPInstanceUID=generate_uid(entropy_srcs=[str(z)]), InstanceNumber=z + 1,
            ImagePositionPatient=[-100.5, 20.25, 33.0 + 3 * z],
        )))
        for z in range(3)
    ]  # fmt: skip
    return legacy.LegacyConvertedEnhancedCTImage(
        slices, series_instance_uid=generate_uid(), series_number=9, sop_instance_uid=generate_uid(),
        instance_number=1,
    )  # fmt: skip


def several_frames() -> Dataset:
    return scan(
        (3, 10, 12), "uint8", high=255, SOPClassUID=UltrasoundMultiFrameImageStorage, Modality="US",
        NumberOfFrames=3, FrameTime=33, FrameIncrementPointer=0x00181063,
    )  # fmt: skip


def colour() -> Dataset:
    return scan(
        (10, 12, 3), "uint8", high=255, SOPClassUID=VLPhotographicImageStorage, Modality="XC",
        SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0,
    )  # fmt: skip


def tomography(sop_class: str) -> Dataset:
    return scan(SOPClassUID=sop_class)


MADE = {
    "CT": scan,
    "legacy converted enhanced CT": legacy_enhanced_ct,
    "enhanced MR": enhanced_mr,
    "enhanced ultrasound": ultrasound_volume,
    "ultrasound of several frames": several_frames,
    "colour photograph": colour,
    "nuclear medicine": partial(tomography, NuclearMedicineImageStorage),
    "PET": partial(tomography, PositronEmissionTomographyImageStorage),
    "ophthalmic photograph": partial(tomography, OphthalmicPhotography8BitImageStorage),
}


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy (Debian dicom3tools)")
@pytest.mark.parametrize("kind", MADE)
def test_dciodvfy_finds_no_new_errors(kind, tmp_path):
    data = saved(MADE[kind]())
    before = dciodvfy(data, tmp_path / "before.dcm")
    assert dciodvfy(upscaled(data), tmp_path / "after.dcm") <= before


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy (Debian dicom3tools)")
def test_dciodvfy_finds_no_new_errors_in_the_objects_of_pydicom(tmp_path):
    """Computed, magnetic and captured, grey and colour, one frame and two, in every transfer syntax."""
    checked = []
    for path in sorted(PYDICOM_FILES.glob("*.dcm")):
        data = path.read_bytes()
        try:
            after = upscaled(data)
        except InputError:
            continue
        if (
            path.name == "SC_rgb_jpeg.dcm"
        ):  # says explicit and is implicit: pydicom reads it, dciodvfy does not
            continue
        source = opened(data)
        if source.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
            source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian  # dciodvfy reads no other
            source.save_as(tmp_path / "plain.dcm")
            data = (tmp_path / "plain.dcm").read_bytes()
        new = dciodvfy(after, tmp_path / "a.dcm") - dciodvfy(data, tmp_path / "b.dcm")
        assert not new, path.name
        checked.append(path.name)
    assert len(checked) >= 42


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy (Debian dicom3tools)")
@pytest.mark.parametrize("name", ["MR_small.dcm", "CT_small_4frame_int16.dcm"])
def test_dciodvfy_finds_no_new_errors_in_real_objects(shared_data, tmp_path, name):
    data = (shared_data / "domain/medical/dicom" / name).read_bytes()
    before = dciodvfy(data, tmp_path / "before.dcm")
    assert dciodvfy(upscaled(data), tmp_path / "after.dcm") <= before
