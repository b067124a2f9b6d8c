"""DICOM elements that are computed with: of the type that PS3.6 gives them, or refused by their keyword.

Writers give them other types (Pixel Spacing as text, the smallest value of signed pixels as unsigned). An error names the
keyword, never a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, MutableSequence
from typing import Any, TypeVar

from rayscale.errors import InputError, RayscaleError

T = TypeVar("T")

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")

# Positions and lengths counted in pixels.
PIXEL_COUNTS = (
    "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter",
    "VerticesOfThePolygonalShutter", "CollimatorLeftVerticalEdge", "CollimatorRightVerticalEdge",
    "CollimatorUpperHorizontalEdge", "CollimatorLowerHorizontalEdge", "CenterOfCircularCollimator",
    "RadiusOfCircularCollimator", "VerticesOfThePolygonalCollimator", "RegionLocationMinX0",
    "RegionLocationMinY0",
    # Of ultrasound regions, displacements from the reference pixel (C.8.5.5.1.10).
    "DopplerSampleVolumeXPosition", "DopplerSampleVolumeYPosition", "TMLinePositionX0", "TMLinePositionY0",
    "TMLinePositionX1", "TMLinePositionY1", "DopplerSampleVolumeXPositionRetired",
    "DopplerSampleVolumeYPositionRetired", "TMLinePositionX0Retired", "TMLinePositionY0Retired",
    "TMLinePositionX1Retired", "TMLinePositionY1Retired",
)  # fmt: skip
LAST_PIXELS = ("RegionLocationMaxX1", "RegionLocationMaxY1")  # they belong to the region

# What takes these needs as many values as PS3.6 says.
_COUNTED = (
    "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PlanarConfiguration", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries", "RescaleSlope", "RescaleIntercept", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "ImagePositionVolume", "ImageOrientationVolume", "PhysicalDeltaX", "PhysicalDeltaY",
    "ReferencePixelX0", "ReferencePixelY0", "ReferencePixelPhysicalValueX", "ReferencePixelPhysicalValueY",
)  # fmt: skip
_NUMBERS = (*_COUNTED, *SPACINGS[1:], *PIXEL_COUNTS, *LAST_PIXELS)
_TEXTS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Manufacturer", "ImageType",
    "FrameType", "SeriesDescription", "PhotometricInterpretation", "LossyImageCompression",
)  # fmt: skip
_SEQUENCES = (
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "SequenceOfUltrasoundRegions", "DetectorInformationSequence",
)  # fmt: skip
_IDENTITY = {
    "SOPClassUID": "MediaStorageSOPClassUID",
    "SOPInstanceUID": "MediaStorageSOPInstanceUID",
}
_PLACE = re.compile(r"(?:With tag \(([0-9A-Fa-f]{4}), ?([0-9A-Fa-f]{4})\) got exception: )+")


def identify(dataset: Any) -> None:
    """What the data set does not say of its class and instance the file meta information says."""
    for name, stored in _IDENTITY.items():
        if not _asked(dataset, name, lambda element: element.value):
            value = _asked(dataset.file_meta, stored, lambda element: element.value)
            if isinstance(value, str) and value:
                dataset.add_new(name, "UI", value)


def check_identity(dataset: Any) -> None:
    """Raise InputError without the UIDs by which a derived object names its source."""
    for name, stored in _IDENTITY.items():
        if not dataset.get(name):
            raise InputError(
                f"DICOM has neither {name} nor {stored}, by which a derived object names its source; add one"
            )


def mend(pydicom: Any, dataset: Any, *, deep: bool) -> None:
    """Give the elements that are used the type they should have, ``deep`` in the items of :func:`walk` too, and those of
    the pixels that are missing their usual value.

    Raises InputError for one that cannot be read, or holds no finite numbers, or another count of them.
    """
    signed = _asked(dataset, "PixelRepresentation", lambda element: int(element.value or 0)) == 1
    tag_of = pydicom.datadict.tag_for_keyword
    numbers, texts = ({tag_of(name): name for name in names} for names in (_NUMBERS, _TEXTS))
    for item in walk(dataset) if deep else [dataset]:
        for tag in texts.keys() & item.keys():
            _mend_text(pydicom, item, texts[tag])
        for tag in numbers.keys() & item.keys():
            _mend_number(pydicom, item, numbers[tag], signed)
    if "BitsAllocated" in dataset:
        _complete(dataset)


def walk(dataset: Any) -> Iterator[Any]:
    """The data set and the items of the sequences that describe its own frames."""
    yield dataset
    for name in _SEQUENCES:
        for item in _asked(dataset, name, _items) or []:
            yield item
            for tag in list(item.keys()):
                if _is_sequence(item, tag):
                    yield from item[tag].value


def several(value: Any) -> list[Any]:
    """A value of any multiplicity as a list."""
    if value is None:
        return []
    return [*value] if isinstance(value, MutableSequence) else [value]


def decimal(pydicom: Any, value: float) -> Any:
    """A decimal string of at most 16 characters."""
    return pydicom.valuerep.DSfloat(float(value), auto_format=True)


def place_of(pydicom: Any, error: BaseException) -> str | None:
    """Keyword or tag of the element that a writer failed at, which it names in a text that quotes the value too."""
    found = _PLACE.match(str(error))  # the innermost of several
    if found is None:
        return None
    tag = int(found[1] + found[2], 16)
    return pydicom.datadict.keyword_for_tag(tag) or f"({found[1]},{found[2]})"


def _asked(item: Any, name: str, use: Callable[[Any], T]) -> T | None:
    """What ``use`` makes of an element, None where there is none; an error without text but the keyword."""
    if name not in item:
        return None
    try:
        return use(item[name])
    except (RayscaleError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"DICOM element {name} is damaged: it cannot be read ({type(error).__name__})"
        ) from None


def _items(element: Any) -> list[Any]:
    if element.VR != "SQ":
        raise TypeError
    return list(element.value or [])


def _is_sequence(item: Any, tag: Any) -> bool:
    """Also False for what is too damaged to tell: nobody asks for it."""
    try:
        return bool(item[tag].VR == "SQ" and item[tag].value)
    except (RayscaleError, MemoryError):
        raise
    except Exception:
        return False


def _mend_text(pydicom: Any, item: Any, name: str) -> None:
    values = _asked(item, name, lambda element: several(element.value)) or []
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"DICOM element {name} is damaged: it must hold text")
    element, vr = item[name], pydicom.datadict.dictionary_VR(name)
    if vr != element.VR:
        parts = [part.strip("\0 ") for value in values for part in value.split("\\")]
        item.add_new(element.tag, vr, parts[0] if len(parts) == 1 else parts or None)


def _mend_number(pydicom: Any, item: Any, name: str, signed: bool) -> None:
    vr, count = pydicom.datadict.dictionary_VR(name), pydicom.datadict.dictionary_VM(name)
    numbers = _asked(item, name, lambda element: _numbers_of(element.value)) or []
    element = item[name]
    whole = vr not in ("DS", "FD")
    if not all(math.isfinite(number) and not (whole and number % 1) for number in numbers):
        raise InputError(
            f"DICOM element {name} is damaged: it must hold {'whole' if whole else 'finite'} numbers"
        )
    if name in _COUNTED and numbers and len(numbers) != int(count):
        raise InputError(
            f"DICOM element {name} is damaged: it should hold {count}, not {len(numbers)}"
        )
    if not numbers and vr == "US":  # of pixels, where none may be empty: as good as absent
        del item[element.tag]
        return
    values: list[Any] = [int(number) if whole else number for number in numbers]
    if vr == "US or SS":
        if not all(-0x8000 <= value < 0x10000 for value in values):
            return  # beyond 16 bits, and of a type that holds it
        vr = "SS" if signed else "US"
        values = [
            (value + 0x8000) % 0x10000 - 0x8000 if signed else value % 0x10000 for value in values
        ]
    if vr == element.VR and len(values) == len(several(element.value)):
        return
    if vr == "DS":
        values = [decimal(pydicom, value) for value in values]
    item.add_new(element.tag, vr, values[0] if len(values) == 1 else values or None)


def _complete(dataset: Any) -> None:
    """What every reader takes for the missing ones, though none may be."""
    _default(dataset, "SamplesPerPixel", 1)
    _default(dataset, "PixelRepresentation", 0)
    _default(dataset, "BitsStored", dataset.BitsAllocated)
    _default(dataset, "HighBit", dataset.BitsStored - 1)
    if dataset.SamplesPerPixel > 1:
        _default(dataset, "PlanarConfiguration", 0)


def _default(dataset: Any, name: str, value: int) -> None:
    if name not in dataset:
        setattr(dataset, name, value)


def _numbers_of(value: Any) -> list[float]:
    """Numbers, whatever type they were stored as; blank ones are none."""
    if isinstance(value, bytes):
        value = value.decode("ascii")
    parts = [
        part for v in several(value) for part in (v.split("\\") if isinstance(v, str) else [v])
    ]
    return [float(part) for part in parts if not isinstance(part, str) or part.strip("\0 ")]
