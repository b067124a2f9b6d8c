"""DICOM files made for the tests, of a patient who must not be named; import after ``importorskip("pydicom")``."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from rayscale.errors import InputError
from rayscale.imaging import Provenance, read_image, write_image
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.options import Options

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


def compress(ds: Dataset, syntax: str, plugin: str = "pylibjpeg") -> None:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    try:
        ds.compress(syntax, encoding_plugin=plugin)
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
    image = Upscaler(create_model("bicubic", scale=scale), Options(scale=scale)).upscale(
        read_image(data)
    )
    return write_image(image, provenance)
