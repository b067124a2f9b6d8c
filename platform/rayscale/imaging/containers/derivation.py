"""What a derived DICOM object says of itself: identity, geometry, and what it was made from and by.

PS3.3 C.7.6.1 (General Image), C.12.1 (SOP Common), C.7.6.16 (functional groups of multi-frame objects). Works on
pydicom data sets that it is given, in place, and only on attributes, never on pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from rayscale.imaging.provenance import Provenance

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")

# Positions and lengths counted in pixels.
_PIXEL_COUNTS = (
    "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter",
    "VerticesOfThePolygonalShutter", "CollimatorLeftVerticalEdge", "CollimatorRightVerticalEdge",
    "CollimatorUpperHorizontalEdge", "CollimatorLowerHorizontalEdge", "CenterOfCircularCollimator",
    "RadiusOfCircularCollimator", "VerticesOfThePolygonalCollimator", "RegionLocationMinX0",
    "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1",
)  # fmt: skip
_PER_PIXEL = ("PhysicalDeltaX", "PhysicalDeltaY")  # of ultrasound regions

# Untrue of other pixels, or of another object: pictures of the old ones, signatures, times of creation.
_DROPPED = (
    "IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence", "DataSetTrailingPadding",
    "SmallestPixelValueInSeries", "LargestPixelValueInSeries", "HistogramSequence",
    "InstanceCreationDate", "InstanceCreationTime", "InstanceCreatorUID", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)  # fmt: skip

# Codes of PS3.16: CID 7203 (derivation), CID 7202 (source), CID 7005 (equipment).
_RESAMPLING = ("113085", "Spatial resampling")
_SOURCE = ("121322", "Source image for image processing operation")
_EQUIPMENT = ("109102", "Processing Equipment")

_LO, _ST = 64, 1024
_NOTICE = "research use"


def derive(pydicom: Any, dataset: Any, scale: float, provenance: Provenance) -> None:
    """Turn the data set of a source image into that of its enlargement by ``scale``; a rerun gives the same."""
    lossy = _is_lossy(pydicom, dataset)
    references = _sources(pydicom, dataset)
    _move_geometry(pydicom, dataset, scale)
    _drop(dataset)
    _rename(pydicom, dataset, provenance)
    for item in _walk(dataset):
        for name in ("ImageType", "FrameType"):
            if name in item:
                kept = _several(item[name].value)[2:]
                setattr(item, name, ["DERIVED", "SECONDARY", *kept])
    if "ImageType" not in dataset:
        dataset.ImageType = ["DERIVED", "SECONDARY"]
    if lossy:
        dataset.LossyImageCompression = "01"
    _explain(pydicom, dataset, references, scale, provenance)


def _rename(pydicom: Any, dataset: Any, provenance: Provenance) -> None:
    """New instance and series; the series is one for all slices, so levels (part of each) stay out of it."""
    parameters = {key: value for key, value in provenance.parameters.items() if key != "levels"}
    made_by = [
        provenance.software, provenance.model, provenance.digest, json.dumps(parameters, sort_keys=True, default=str),
    ]  # fmt: skip
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        source = str(dataset.get(name, ""))
        setattr(dataset, name, pydicom.uid.generate_uid(entropy_srcs=[name, source, *made_by]))
    note = f"rayscale {provenance.model}, {_NOTICE}"
    before = str(dataset.get("SeriesDescription", "") or "").strip()
    room = _LO - len(note) - 3
    dataset.SeriesDescription = f"{before[:room]} [{note}]" if before and room > 0 else note[-_LO:]


def _explain(
    pydicom: Any, dataset: Any, references: list[Any], scale: float, provenance: Provenance
) -> None:
    description = (
        f"Super-resolution x{scale:g} by {provenance.model} (weights {provenance.digest}), {provenance.software}; "
        f"{_NOTICE}, not for diagnosis"
    )
    holder = dataset
    if "SharedFunctionalGroupsSequence" in dataset:
        # Enhanced objects tell it in a functional group, for all frames or for each, never both.
        for item in _walk(dataset):
            if "DerivationImageSequence" in item:
                del item.DerivationImageSequence
        holder = pydicom.Dataset()
        dataset.SharedFunctionalGroupsSequence[0].DerivationImageSequence = [holder]
    holder.DerivationDescription = description[:_ST]
    holder.DerivationCodeSequence = [_code(pydicom, *_RESAMPLING)]
    holder.SourceImageSequence = references
    equipment = pydicom.Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code(pydicom, *_EQUIPMENT)]
    equipment.Manufacturer = "rayscale"
    equipment.ManufacturerModelName = provenance.model[:_LO]
    equipment.SoftwareVersions = provenance.software[:_LO]
    equipment.ContributionDescription = provenance.to_json()[:_ST]
    former = list(dataset.get("ContributingEquipmentSequence", None) or [])
    dataset.ContributingEquipmentSequence = [*former, equipment]


def _sources(pydicom: Any, dataset: Any) -> list[Any]:
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID = dataset.SOPClassUID
    reference.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    reference.PurposeOfReferenceCodeSequence = [_code(pydicom, *_SOURCE)]
    return [reference]


def _code(pydicom: Any, value: str, meaning: str) -> Any:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _move_geometry(pydicom: Any, dataset: Any, scale: float) -> None:
    """First the position of the first pixel's centre, by the old spacing; then everything counted in pixels."""
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence", None) or []), None)
    _move_position(pydicom, [dataset], [dataset], [dataset], scale)
    for detector in dataset.get("DetectorInformationSequence", None) or []:
        _move_position(pydicom, [detector], [detector], [dataset], scale)
    if shared is not None and "PlanePositionSequence" in shared:
        _move_frame(pydicom, shared, shared, scale)
    for frame in dataset.get("PerFrameFunctionalGroupsSequence", None) or []:
        if "PlanePositionSequence" in frame:
            _move_frame(pydicom, frame, shared, scale)
    for item in _walk(dataset):
        for name in _SPACINGS:
            if name in item:
                setattr(item, name, [_decimal(pydicom, float(v) / scale) for v in item[name].value])
        for name in _PIXEL_COUNTS:
            if name in item:
                scaled = [round(int(v) * scale) for v in _several(item[name].value)]
                setattr(item, name, scaled if len(scaled) > 1 else scaled[0])
        for name in _PER_PIXEL:
            if name in item:
                setattr(item, name, float(item[name].value) / scale)


def _move_frame(pydicom: Any, frame: Any, shared: Any, scale: float) -> None:
    holders = [item for item in (frame, shared) if item is not None]

    def group(name: str) -> list[Any]:
        return [item[name][0] for item in holders if name in item]

    positions = list(frame.PlanePositionSequence)
    _move_position(
        pydicom, positions, group("PlaneOrientationSequence"), group("PixelMeasuresSequence"), scale
    )


def _move_position(
    pydicom: Any, positions: list[Any], orientations: list[Any], spacings: list[Any], scale: float
) -> None:
    """The centre of the first small pixel lies (1/r - 1)/2 of an old pixel from that of the first old one."""
    orientation = next((d for d in orientations if "ImageOrientationPatient" in d), None)
    spacing = next((d for d in spacings if "PixelSpacing" in d), None)
    position = next((d for d in positions if "ImagePositionPatient" in d), None)
    if orientation is None or spacing is None or position is None:
        return
    turn = np.array([float(v) for v in orientation.ImageOrientationPatient])
    between_rows, between_columns = (float(v) for v in spacing.PixelSpacing)
    shift = (1 / scale - 1) / 2 * (turn[:3] * between_columns + turn[3:] * between_rows)
    moved = np.array([float(v) for v in position.ImagePositionPatient]) + shift
    position.ImagePositionPatient = [_decimal(pydicom, value) for value in moved]


def _decimal(pydicom: Any, value: float) -> Any:
    """A decimal string of at most 16 characters."""
    return pydicom.valuerep.DSfloat(float(value), auto_format=True)


def _drop(dataset: Any) -> None:
    for name in _DROPPED:
        if name in dataset:
            delattr(dataset, name)
    for tag in [tag for tag in dataset.keys() if 0x6000 <= tag.group <= 0x60FF]:  # noqa: SIM118
        del dataset[tag]


def _is_lossy(pydicom: Any, dataset: Any) -> bool:
    """Whether the pixels ever went through lossy compression: once lossy, always lossy."""
    lossless = {
        pydicom.uid.RLELossless, pydicom.uid.JPEGLossless, pydicom.uid.JPEGLosslessSV1,
        pydicom.uid.JPEGLSLossless, pydicom.uid.JPEG2000Lossless, pydicom.uid.HTJ2KLossless,
        pydicom.uid.HTJ2KLosslessRPCL, pydicom.uid.DeflatedExplicitVRLittleEndian,
    }  # fmt: skip
    syntax = dataset.file_meta.TransferSyntaxUID
    return bool(
        dataset.get("LossyImageCompression") == "01"
        or (syntax.is_compressed and syntax not in lossless)
    )


def _walk(dataset: Any) -> Iterator[Any]:
    """The data set and the items of the sequences that describe its own frames."""
    yield dataset
    for name in (
        "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
        "SequenceOfUltrasoundRegions", "DetectorInformationSequence",
    ):  # fmt: skip
        for item in dataset.get(name, None) or []:
            yield item
            for element in item:
                if element.VR == "SQ":
                    yield from element.value


def _several(value: Any) -> list[Any]:
    """A value of any multiplicity as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, str | int | float) else list(value)
