"""What a derived DICOM object says of itself: identity, geometry, and what it was made from and by.

PS3.3 C.7.6.1 (General Image), C.12.1 (SOP Common), C.7.6.16 (functional groups of multi-frame objects). Works on
pydicom data sets that it is given, in place, and only on attributes, never on pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rayscale import strictjson
from rayscale.imaging.containers.elements import (
    LAST_PIXELS,
    PIXEL_COUNTS,
    SPACINGS,
    decimal,
    several,
    walk,
)
from rayscale.imaging.provenance import Provenance

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

# Classes of which value 2 of the image type must be PRIMARY: nuclear medicine (C.8.4.9.1.1), PET (C.8.9.4.1.1), ophthalmic
# photographs and en face OCT (as dciodvfy has it).
_PRIMARY = (
    "1.2.840.10008.5.1.4.1.1.20", "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.77.1.5.1",
    "1.2.840.10008.5.1.4.1.1.77.1.5.2", "1.2.840.10008.5.1.4.1.1.77.1.5.7",
)  # fmt: skip
_ENHANCED_ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.2"

_LO, _ST = 64, 1024
_NOTICE = "research use"


def derive(pydicom: Any, dataset: Any, scale: float, provenance: Provenance) -> None:
    """Turn the data set of a source image into that of its enlargement by ``scale``; a rerun gives the same."""
    lossy = _is_lossy(pydicom, dataset)
    source = _reference(pydicom, dataset)
    evidence = _evidence(pydicom, dataset)
    _move_geometry(pydicom, dataset, scale)
    _drop(dataset)
    _rename(pydicom, dataset, provenance)
    _say_derived(dataset)
    if lossy:
        dataset.LossyImageCompression = "01"
    _explain(pydicom, dataset, source, scale, provenance)
    if _is_enhanced(dataset):
        dataset.SourceImageEvidenceSequence = [evidence]
    if dataset.SOPClassUID == _ENHANCED_ULTRASOUND:
        dataset.SourceImageSequence = [source]  # it wants this one besides (C.8.24.3)


def _say_derived(dataset: Any) -> None:
    """Image and frame types. Value 2 of enhanced objects, where most may say PRIMARY alone (C.8.16.1.2), is kept."""
    enhanced, primary = _is_enhanced(dataset), dataset.SOPClassUID in _PRIMARY
    for item in walk(dataset):
        for name in ("ImageType", "FrameType"):
            if name in item:
                former = several(item[name].value)
                kept = "".join(former[1:2]) if enhanced and not primary else ""
                second = kept or ("PRIMARY" if enhanced or primary else "SECONDARY")
                setattr(item, name, ["DERIVED", second, *former[2:]])
    if "ImageType" not in dataset:
        dataset.ImageType = ["DERIVED", "PRIMARY" if enhanced or primary else "SECONDARY"]


def _is_enhanced(dataset: Any) -> bool:
    """Whether frames are described by functional groups (C.7.6.16)."""
    return any(dataset.get(f"{of}FunctionalGroupsSequence") for of in ("Shared", "PerFrame"))


def _rename(pydicom: Any, dataset: Any, provenance: Provenance) -> None:
    """New instance and series; the series is one for all slices, so levels (part of each) stay out of it."""
    parameters = {key: value for key, value in provenance.parameters.items() if key != "levels"}
    made_by = [
        provenance.software, provenance.model, provenance.digest, strictjson.dumps(parameters, sort_keys=True, default=str),
    ]  # fmt: skip
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        source = str(dataset.get(name, ""))
        setattr(dataset, name, pydicom.uid.generate_uid(entropy_srcs=[name, source, *made_by]))
    note = f"rayscale {provenance.model}, {_NOTICE}"
    before = str(dataset.get("SeriesDescription", "") or "").strip()
    room = _LO - len(note) - 3
    dataset.SeriesDescription = f"{before[:room]} [{note}]" if before and room > 0 else note[-_LO:]


def _explain(pydicom: Any, dataset: Any, source: Any, scale: float, provenance: Provenance) -> None:
    description = (
        f"Super-resolution x{scale:g} by {provenance.model} (weights {provenance.digest}), {provenance.software}; "
        f"{_NOTICE}, not for diagnosis"
    )
    holder = dataset
    if _is_enhanced(dataset):
        # Enhanced objects tell it in a functional group, for all frames or for each, never both.
        for item in walk(dataset):
            if "DerivationImageSequence" in item:
                del item.DerivationImageSequence
        holder = pydicom.Dataset()
        if not dataset.get("SharedFunctionalGroupsSequence"):
            dataset.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
        dataset.SharedFunctionalGroupsSequence[0].DerivationImageSequence = [holder]
    holder.DerivationDescription = description[:_ST]
    holder.DerivationCodeSequence = [_code(pydicom, *_RESAMPLING)]
    holder.SourceImageSequence = [source]
    equipment = pydicom.Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code(pydicom, *_EQUIPMENT)]
    equipment.Manufacturer = "rayscale"
    equipment.ManufacturerModelName = provenance.model[:_LO]
    equipment.SoftwareVersions = provenance.software[:_LO]
    equipment.ContributionDescription = provenance.to_json()[:_ST]
    former = list(dataset.get("ContributingEquipmentSequence", None) or [])
    dataset.ContributingEquipmentSequence = [*former, equipment]


def _reference(pydicom: Any, dataset: Any) -> Any:
    """The source as an item of a Source Image Sequence."""
    item = _instance(pydicom, dataset)
    item.PurposeOfReferenceCodeSequence = [_code(pydicom, *_SOURCE)]
    return item


def _evidence(pydicom: Any, dataset: Any) -> Any:
    """The source with its series and study: what enhanced objects list besides (C.8.13.1, C.8.15.2)."""
    series, study = pydicom.Dataset(), pydicom.Dataset()
    series.SeriesInstanceUID = dataset.get("SeriesInstanceUID", "")
    series.ReferencedSOPSequence = [_instance(pydicom, dataset)]
    study.StudyInstanceUID = dataset.get("StudyInstanceUID", "")
    study.ReferencedSeriesSequence = [series]
    return study


def _instance(pydicom: Any, dataset: Any) -> Any:
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID = dataset.SOPClassUID
    item.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    return item


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
    frames = dataset.get("PerFrameFunctionalGroupsSequence", None) or []
    for frame in [*frames] if shared is None else [shared, *frames]:
        _move_frame(pydicom, frame, shared, scale)
    for item in walk(dataset):
        for axis in "XY":
            _move_reference(item, axis, scale)  # counted from the region, thus before this moves
        for name in SPACINGS:
            _replace(item, name, lambda v: decimal(pydicom, float(v) / scale))
        for name in PIXEL_COUNTS:
            _replace(item, name, lambda v: round(int(v) * scale))
        for name in LAST_PIXELS:
            _replace(item, name, lambda v: round((int(v) + 1) * scale) - 1)


def _replace(item: Any, name: str, function: Callable[[Any], Any]) -> None:
    """Every value of an attribute by that of ``function``; what is absent or empty stays so."""
    values = [function(value) for value in several(item.get(name))]
    if values:
        setattr(item, name, values if len(values) > 1 else values[0])


def _move_reference(region: Any, axis: str, scale: float) -> None:
    """The reference pixel of an ultrasound region keeps its centre; what whole pixels cannot say goes to its value."""
    pixel, value, delta = (
        f"ReferencePixel{axis}0", f"ReferencePixelPhysicalValue{axis}", f"PhysicalDelta{axis}",
    )  # fmt: skip
    _replace(region, delta, lambda v: float(v) / scale)
    if region.get(pixel) is None:
        return
    start = int(region.get(f"RegionLocationMin{axis}0") or 0) * scale
    exact = (int(region[pixel].value) + 0.5) * scale - 0.5 + start - round(start)
    setattr(region, pixel, round(exact))
    if region.get(delta) is not None:
        moved = (round(exact) - exact) * float(region[delta].value)
        _replace(region, value, lambda v: float(v) + moved)


def _move_frame(pydicom: Any, frame: Any, shared: Any, scale: float) -> None:
    holders = [item for item in (frame, shared) if item is not None]

    def group(name: str) -> list[Any]:
        return [item[name][0] for item in holders if item.get(name)]

    for of in ("", "Volume"):
        _move_position(
            pydicom,
            list(frame.get(f"PlanePosition{of}Sequence", None) or []),
            group(f"PlaneOrientation{of}Sequence"),
            group("PixelMeasuresSequence"),
            scale,
            of or "Patient",
        )


def _move_position(
    pydicom: Any,
    positions: list[Any],
    orientations: list[Any],
    spacings: list[Any],
    scale: float,
    of: str = "Patient",
) -> None:
    """The centre of the first small pixel lies (1/r - 1)/2 of an old pixel from that of the first old one.

    ``of`` is whose coordinates these are: Patient, decimal strings, or Volume (of ultrasound), doubles.
    """
    name = f"ImagePosition{of}"
    orientation = next((d for d in orientations if d.get(f"ImageOrientation{of}")), None)
    spacing = next((d for d in spacings if d.get("PixelSpacing")), None)
    position = next((d for d in positions if d.get(name)), None)
    if orientation is None or spacing is None or position is None:
        return
    turn = np.array([float(v) for v in orientation[f"ImageOrientation{of}"].value])
    between_rows, between_columns = (float(v) for v in spacing.PixelSpacing)
    shift = (1 / scale - 1) / 2 * (turn[:3] * between_columns + turn[3:] * between_rows)
    moved = np.array([float(v) for v in position[name].value]) + shift
    exact = of == "Volume"
    setattr(position, name, [float(v) if exact else decimal(pydicom, v) for v in moved])


def _drop(dataset: Any) -> None:
    for name in _DROPPED:
        if name in dataset:
            delattr(dataset, name)
    for tag in list(dataset.keys()):
        if tag.group < 4 or 0x6000 <= tag.group <= 0x60FF:  # of messages and of files; overlays
            del dataset[tag]


def _is_lossy(pydicom: Any, dataset: Any) -> bool:
    """Whether the pixels ever went through lossy compression: once lossy, always lossy."""
    lossless = {
        pydicom.uid.RLELossless, pydicom.uid.JPEGLossless, pydicom.uid.JPEGLosslessSV1,
        pydicom.uid.JPEGLSLossless, pydicom.uid.JPEG2000Lossless, pydicom.uid.HTJ2KLossless,
        pydicom.uid.HTJ2KLosslessRPCL, pydicom.uid.DeflatedExplicitVRLittleEndian,
    }  # fmt: skip
    syntax = pydicom.uid.UID(str(dataset.file_meta.TransferSyntaxUID))
    return bool(
        dataset.get("LossyImageCompression") == "01"
        or (syntax.is_compressed and syntax not in lossless)
    )
