"""The slices of a DICOM series, each a file of its own, as one volume to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError
from rayscale.imaging.containers.dicom import DicomMetadata
from rayscale.imaging.containers.dicom_file import discreetly
from rayscale.imaging.containers.elements import several
from rayscale.imaging.image import Image
from rayscale.imaging.missing import Missing

_DAMAGED = "the geometry of a DICOM object is damaged"
_ROUNDING = 1e-3
"""Cosines, and millimetres of a pixel, by which two slices of a volume may differ."""


def order_slices(images: Sequence[Image]) -> list[int]:
    """The places of slices in the order in which they lie in the patient, along their normal.

    Slices at one place follow their instance numbers. Raises InputError for images that are not slices of one series, and
    for slices of different sizes, orientations or units, which make no volume.
    """
    first = images[0]
    keys = []
    for number, image in enumerate(images, 1):
        if not isinstance(image.metadata, DicomMetadata) or image.frames > 1:
            raise InputError(f"file {number} is not a single DICOM slice; open it alone")
        if (image.pixels.shape, image.pixels.dtype) != (first.pixels.shape, first.pixels.dtype):
            raise InputError(f"slice {number} has another size or pixel type than the first one")
        dataset = image.metadata.dataset
        with discreetly(_DAMAGED):
            if number > 1:
                _check_same(images[0].metadata, dataset, number)
            keys.append((_depth(dataset), float(dataset.get("InstanceNumber") or number)))
    return sorted(range(len(images)), key=keys.__getitem__)


def stack_slices(images: Sequence[Image]) -> Image:
    """A volume ``(N, H, W, C)`` of ordered slices, with levels and metadata of the first."""
    pixels = np.stack([image.pixels for image in images])
    missing = None
    if any(image.missing is not None for image in images):
        missing = Missing(np.stack([_measured(image) for image in images]))
    return replace(images[0], pixels=pixels, missing=missing)


def _measured(image: Image) -> NDArray[np.bool_]:
    if image.missing is None:
        return np.ones((image.height, image.width, 1), bool)
    return np.asarray(image.missing.valid.all(-1, keepdims=True))


def _check_same(first: Any, dataset: Any, number: int) -> None:
    known = first.dataset
    if dataset.get("SeriesInstanceUID") != known.get("SeriesInstanceUID"):
        raise InputError(f"slice {number} is of another series than the first one")
    for name in ("RescaleSlope", "RescaleIntercept"):
        if dataset.get(name) != known.get(name):
            raise InputError(
                f"the values of slice {number} have another unit than those of the first one"
            )
    if not _agree(known, dataset, "ImageOrientationPatient"):
        raise InputError(f"slice {number} is turned against the first one")
    if not _agree(known, dataset, "PixelSpacing"):
        raise InputError(f"slice {number} has another pixel spacing than the first one")


def _agree(known: Any, dataset: Any, name: str) -> bool:
    first, other = _numbers(known, name), _numbers(dataset, name)
    return len(first) == len(other) and np.allclose(first, other, atol=_ROUNDING)


def _depth(dataset: Any) -> float:
    """Millimetres along the normal (DICOM PS3.3 C.7.6.2.1.1); 0 for a slice that does not say where it lies."""
    turn, position = (
        _numbers(dataset, name) for name in ("ImageOrientationPatient", "ImagePositionPatient")
    )
    if len(turn) != 6 or len(position) != 3:
        return 0.0
    return round(float(np.dot(np.cross(turn[:3], turn[3:]), position)), 3)


def _numbers(dataset: Any, name: str) -> list[float]:
    return [float(value) for value in several(dataset.get(name)) if value != ""]
