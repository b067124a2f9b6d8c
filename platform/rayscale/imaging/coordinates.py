"""Where a pixel lies and what its value means: map, patient and native units, as the container knows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayscale.imaging.containers.dicom import DicomMetadata
from rayscale.imaging.containers.dicom_file import discreetly
from rayscale.imaging.containers.elements import several
from rayscale.imaging.containers.geometadata import GeoMetadata
from rayscale.imaging.containers.nifti import NiftiMetadata
from rayscale.imaging.image import Image, Metadata

_SQUARE, _ODD = math.log(1.01), math.log(32)
"""Aspects of pixels nearer to 1 count as 1, and so do farther ones."""


@dataclass(frozen=True)
class Unit:
    """What a stored value of a channel means: ``value = stored * scale + offset`` in ``name``, "" where nothing is known."""

    scale: float = 1.0
    offset: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class Place:
    """A point: ``system`` is ``patient`` (millimetres, LPS for DICOM and RAS for NIfTI) or a reference system of maps."""

    system: str
    axes: tuple[str, ...]
    values: tuple[float, ...]
    unit: str


def units_of(metadata: Metadata | None, channels: int) -> list[Unit]:
    """The unit of each channel."""
    if isinstance(metadata, GeoMetadata):
        return [Unit(band.scale, band.offset, band.unit or "") for band in metadata.bands]
    unit = Unit()
    if isinstance(metadata, DicomMetadata):
        with discreetly("the value mapping of the DICOM object is damaged"):
            unit = _dicom_unit(metadata.dataset)
    elif isinstance(metadata, NiftiMetadata):
        facts = metadata.describe()
        unit = Unit(facts.get("slope", 1.0), facts.get("intercept", 0.0))
    return [unit] * channels


def window_of(metadata: Metadata | None) -> tuple[float, float] | None:
    """Stored values that the file shows as black and white, its first window; None where it has none.

    DICOM PS3.3 C.11.2.1.2: centre and width are in the units after the rescaling.
    """
    if not isinstance(metadata, DicomMetadata):
        return None
    dataset = metadata.dataset
    with discreetly("the window of the DICOM object is damaged"):
        ends = [
            _ask(dataset, 0, "FrameVOILUTSequence", f"Window{name}") for name in ("Center", "Width")
        ]
        if ends[0] is None or ends[1] is None or ends[1][0] < 1:
            return None
        unit, centre, width = _dicom_unit(dataset), ends[0][0] - 0.5, ends[1][0] - 1
        dark, bright = (
            (value - unit.offset) / unit.scale for value in (centre - width / 2, centre + width / 2)
        )
        if not dark < bright:
            return None
        return (
            (bright, dark) if dataset.PhotometricInterpretation == "MONOCHROME1" else (dark, bright)
        )


def channel_names(metadata: Metadata | None, channels: int) -> list[str]:
    """What the file calls its channels, else numbers from 1."""
    names = [f"Band {number}" for number in range(1, channels + 1)]
    if isinstance(metadata, GeoMetadata):
        for at, band in enumerate(metadata.bands[:channels]):
            names[at] = band.description or names[at]
    elif channels == 3:
        names = ["Red", "Green", "Blue"]
    elif channels == 1:
        names = ["Grey"]
    return names


def locate(metadata: Metadata | None, index: int, row: int, column: int) -> Place | None:
    """The centre of a pixel of slice ``index``; None where the file does not say where it lies."""
    if isinstance(metadata, GeoMetadata):
        return _on_map(metadata, row, column)
    if isinstance(metadata, DicomMetadata):
        with discreetly("the geometry of the DICOM object is damaged"):
            return _in_patient(metadata.dataset, index, row, column)
    if isinstance(metadata, NiftiMetadata):
        return _in_scanner(metadata, index, row, column)
    return None


def aspect_of(image: Image) -> float:
    """Height over width of a pixel as it lies on the map, in the patient or on paper; 1 where the file says nothing sound."""
    metadata, aspect = image.metadata, 1.0
    if isinstance(metadata, GeoMetadata):
        if metadata.transform is not None:
            a, b, _, d, e, _ = metadata.transform[:6]
            aspect = _ratio(math.hypot(b, e), math.hypot(a, d))
    elif isinstance(metadata, DicomMetadata):
        with discreetly("the geometry of the DICOM object is damaged"):
            aspect = _dicom_aspect(metadata.dataset)
    elif isinstance(metadata, NiftiMetadata):
        affine = metadata.affine()
        if affine is not None:
            across, down = np.linalg.norm(affine[:3, :2], axis=0).tolist()
            aspect = _ratio(down, across)
    elif image.dpi is not None:
        aspect = _ratio(*image.dpi)
    return aspect


def _dicom_aspect(dataset: Any) -> float:
    """DICOM PS3.3 10.7.1.1: spacing of rows, then of columns; without one the aspect, C.7.6.3.1.7, in the same order."""
    spacing = _ask(dataset, 0, "PixelMeasuresSequence", "PixelSpacing")
    for name in ("ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        spacing = spacing or _ask(dataset, 0, "", name)
    return 1.0 if spacing is None or len(spacing) < 2 else _ratio(spacing[0], spacing[1])


def _ratio(high: float, wide: float) -> float:
    """1 also for what only rounding keeps from it, and for what no scanner makes."""
    if not (math.isfinite(high) and math.isfinite(wide) and high > 0 and wide > 0):
        return 1.0
    ratio = high / wide
    return ratio if _SQUARE < abs(math.log(ratio)) < _ODD else 1.0


def is_bottom_up(metadata: Metadata | None) -> bool:
    """Whether the rows of a file go up: NIfTI's, unless its map says that they go to the back or down."""
    if not isinstance(metadata, NiftiMetadata):
        return False
    affine = metadata.affine()
    if affine is None:
        return True
    along = affine[:3, 1]
    return bool(along[np.abs(along).argmax()] > 0)


def _on_map(meta: GeoMetadata, row: int, column: int) -> Place | None:
    if meta.transform is None or meta.crs is None:
        return None
    x, y = meta.transform @ (column + 0.5, row + 0.5)
    degrees = bool(meta.crs.is_geographic)
    axes = ("longitude", "latitude") if degrees else ("easting", "northing")
    unit = "degrees" if degrees else str(meta.crs.linear_units)
    return Place(meta.crs.to_string()[:80], axes, (float(x), float(y)), unit)


def _dicom_unit(dataset: Any) -> Unit:
    frames = [
        group[0]
        for frame in _groups(dataset, 0)
        if (group := frame.get("PixelValueTransformationSequence"))
    ]
    source = frames[0] if frames else dataset
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    name = str(source.get("RescaleType") or ("HU" if dataset.get("Modality") == "CT" else ""))
    if slope is None or float(slope) == 0:
        return Unit()
    return Unit(float(slope), float(intercept or 0), "" if name == "US" else name[:16])


def _in_patient(dataset: Any, index: int, row: int, column: int) -> Place | None:
    """The map of DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1."""
    position = _ask(dataset, index, "PlanePositionSequence", "ImagePositionPatient")
    turn = _ask(dataset, index, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = _ask(dataset, index, "PixelMeasuresSequence", "PixelSpacing")
    if position is None or turn is None or spacing is None:
        return None
    origin, along, down = (np.array(v, float) for v in (position, turn[:3], turn[3:]))
    point = origin + along * spacing[1] * column + down * spacing[0] * row
    return Place("patient (LPS)", ("x", "y", "z"), tuple(point.tolist()), "mm")


def _groups(dataset: Any, index: int) -> list[Any]:
    """The functional groups of a frame, its own before those of all."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    return [*list(own)[index : index + 1], *list(shared)[:1]]


def _ask(dataset: Any, index: int, group: str, name: str) -> Sequence[float] | None:
    """Numbers of a frame, or of an object of one frame."""
    items = [found[0] for frame in _groups(dataset, index) if (found := frame.get(group))]
    for item in (*items, dataset):
        values = [value for value in several(item.get(name)) if value != ""]
        if values:
            return [float(value) for value in values]
    return None


def _in_scanner(meta: NiftiMetadata, index: int, row: int, column: int) -> Place | None:
    affine = meta.affine()
    if affine is None:
        return None
    depth = meta.layout.shape[2] if len(meta.layout.shape) > 2 else 1
    x, y, z = (affine @ (column, row, index % depth, 1))[:3].tolist()
    if not all(map(math.isfinite, (x, y, z))):
        return None
    return Place("patient (RAS)", ("x", "y", "z"), (x, y, z), "mm")
