"""DICOM images: grey or colour, one frame or many, in every transfer syntax that pydicom and its plug-ins decode.

Data set to values and back; ``containers.dicom_file`` parses the bytes. What a derived object must say of itself is in
``containers.derivation``. Nothing of a file but numbers, names of classes and transfer syntaxes may appear in an error: the rest is about patients.
"""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError, UnsupportedError
from rayscale.imaging.containers.derivation import derive
from rayscale.imaging.containers.dicom_file import discreetly, load_pydicom, parse
from rayscale.imaging.containers.elements import check_identity, mend
from rayscale.imaging.containers.frames import check_frame
from rayscale.imaging.image import Header, Image
from rayscale.imaging.levels import Levels
from rayscale.imaging.limits import check_size
from rayscale.imaging.missing import Missing
from rayscale.imaging.provenance import Provenance
from rayscale.options import DEFAULTS, Handling
from rayscale.resampling import exact_scale

MAX_SIDE = 0xFFFF
"""Rows and columns have 16 bits."""

_VIDEO = "1.2.840.10008.1.2.4.10"  # MPEG-2, MPEG-4, HEVC

_DAMAGED = "DICOM is damaged or not conformant"
_CT_RANGE = (-1024.0, 3071.0)
"""The 12 bits of Hounsfield units that every scanner writes; the same for all slices of a series."""

# SOP classes whose pixels are not a picture, by their common root.
_REFUSED = {
    "1.2.840.10008.5.1.4.1.1.481.": "radiotherapy objects",
    "1.2.840.10008.5.1.4.1.1.66": "segmentations and registrations",
    "1.2.840.10008.5.1.4.1.1.88.": "structured reports",
    "1.2.840.10008.5.1.4.1.1.11.": "presentation states",
    "1.2.840.10008.5.1.4.1.1.104.": "encapsulated documents",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "whole-slide images, whose tiles have a geometry of their own,",
}
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True, eq=False)
class DicomMetadata:
    """The source object without its pixels, and how much these were enlarged since."""

    dataset: Any
    scale: float = 1.0
    containers: tuple[str, ...] = ("dicom",)

    def scaled(self, scale: float) -> DicomMetadata:
        """The same object, of which ``write`` makes one of larger pixels."""
        return replace(self, scale=self.scale * float(exact_scale(scale)))

    def describe(self) -> dict[str, Any]:
        """Kind of object, modality, transfer syntax and spacing."""
        dataset = self.dataset
        facts = {
            "object": getattr(dataset.get("SOPClassUID"), "name", None),
            "modality": dataset.get("Modality"),
            "transfer_syntax": getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", None),
            "photometric": dataset.get("PhotometricInterpretation"),
            "pixel_spacing": [float(value) for value in dataset.get("PixelSpacing") or []],
        }
        return {key: value for key, value in facts.items() if value}

    def of_deviations(self) -> DicomMetadata:
        """Refused: of the classes that hold floating values none is an image of the source's class."""
        raise UnsupportedError(
            "a DICOM image cannot hold uncertainty, because its pixels are integers; convert the series to NIfTI first"
        )


def probe(data: bytes) -> Header:
    """Header of a DICOM image; at most 4 MiB of a deflated one are inflated."""
    with discreetly(_DAMAGED):
        return _header(parse(data, 0))


def read(data: bytes, max_pixels: int, handling: Handling = DEFAULTS) -> Image:
    """Pixels ``(H, W, C)`` as stored, or ``(N, H, W, C)`` of several frames; colours become RGB."""
    with discreetly(_DAMAGED):
        return _read(data, max_pixels)


def write(image: Image, provenance: Provenance | None) -> bytes:
    """The derived object, uncompressed; needs provenance, without which it would pass for an acquisition."""
    meta = image.metadata
    if not isinstance(meta, DicomMetadata):
        raise UnsupportedError(
            "a DICOM object can only be made from a DICOM object; write this image as PNG"
        )
    if provenance is None:
        raise UnsupportedError("a derived DICOM object must name what made it; give its provenance")
    with discreetly("DICOM cannot be written"):
        return _write(image, meta, provenance)


def _read(data: bytes, max_pixels: int) -> Image:
    header = _header(parse(data, 0))
    check_size(header, max_pixels)
    dataset = parse(data, header.decoded_bytes)
    if not dataset.get("PixelData"):
        raise InputError("DICOM is cut short: it ends before its pixels")
    mend(load_pydicom(), dataset, deep=True)
    told = dataset.PhotometricInterpretation
    values = _values(dataset, header)
    pixels = values.reshape(*values.shape[: 3 if header.slices > 1 else 2], header.channels)
    del dataset.PixelData
    missing = _missing(pixels, dataset)
    return Image(
        pixels=pixels,
        container="dicom",
        levels=_levels(dataset, header, pixels, missing),
        missing=missing,
        metadata=DicomMetadata(dataset),
        notes=_notes(told, dataset.PhotometricInterpretation),
    )


def _notes(told: str, found: str) -> tuple[str, ...]:
    """What whoever looks at colours must know."""
    if told == found:
        return ()
    names = ["YCbCr" if "YBR" in space else "RGB" for space in (told, found)]
    return (f"DICOM says {names[0]}, but its JPEG frames are {names[1]}, and were decoded as such",)


def _write(image: Image, meta: DicomMetadata, provenance: Provenance) -> bytes:
    pydicom = load_pydicom()
    dataset = copy.deepcopy(meta.dataset)
    dataset.Rows, dataset.Columns = image.height, image.width
    if image.channels == 3:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    for name, function in (("Smallest", np.min), ("Largest", np.max)):
        if f"{name}ImagePixelValue" in dataset:
            dataset[f"{name}ImagePixelValue"].value = int(function(image.pixels))
    derive(pydicom, dataset, meta.scale, provenance)
    stored = np.ascontiguousarray(image.pixels, image.pixels.dtype.newbyteorder("<")).tobytes()
    dataset.add_new(
        0x7FE00010, "OW" if image.bits > 8 else "OB", stored + b"\0" * (len(stored) % 2)
    )
    file_meta = pydicom.dataset.FileMetaDataset()
    file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta, dataset.preamble = file_meta, bytes(128)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return out.getvalue()


def _header(dataset: Any) -> Header:
    pydicom = load_pydicom()
    sop_class = pydicom.uid.UID(str(dataset.get("SOPClassUID", "")))
    name = sop_class.name if sop_class in pydicom.uid.UID_dictionary else "an unknown SOP class"
    for root, what in _REFUSED.items():
        if sop_class.startswith(root):
            raise UnsupportedError(f"DICOM object is {name}: {what} cannot be super-resolved")
    mend(pydicom, dataset, deep=False)
    if "Rows" not in dataset or "Columns" not in dataset or "BitsAllocated" not in dataset:
        raise UnsupportedError(f"DICOM object is {name}, which holds no image")
    check_identity(dataset)
    syntax = _syntax(dataset)
    if syntax.startswith(_VIDEO):
        raise UnsupportedError(
            f"DICOM holds a video ({syntax.name}); only single frames are handled"
        )
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    samples = int(dataset.SamplesPerPixel)
    if photometric.startswith("PALETTE"):
        raise UnsupportedError(
            "DICOM has a palette (PALETTE COLOR): its values must not be interpolated; convert it to RGB"
        )
    if (samples, photometric) not in {(1, grey) for grey in _GREY} | {(3, rgb) for rgb in _COLOUR}:
        raise UnsupportedError(
            f"DICOM of {samples} samples per pixel is neither {', '.join(_GREY)} nor {', '.join(_COLOUR)}"
        )
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated not in (8, 16) or not 1 < stored <= allocated:
        raise UnsupportedError(
            f"DICOM pixels have {stored} of {allocated} bits; 2 to 16 of 8 or 16 are handled"
        )
    if int(dataset.HighBit) != stored - 1:
        raise UnsupportedError(
            f"DICOM keeps its {stored} bits up to bit {int(dataset.HighBit)}; only the lowest bits are handled"
        )
    frames = int(dataset.get("NumberOfFrames", None) or 1)
    if frames == 1 and _is_mosaic(dataset):
        raise UnsupportedError(
            "DICOM image is a mosaic of slices side by side, which would bleed into each other; convert the series to "
            "NIfTI first (dcm2niix)"
        )
    return Header(
        "dicom", int(dataset.Columns), int(dataset.Rows), samples, allocated, slices=frames
    )


def _syntax(dataset: Any) -> Any:
    uid = load_pydicom().uid.UID(str(dataset.file_meta.TransferSyntaxUID))
    if not uid.is_transfer_syntax:
        raise UnsupportedError(
            "DICOM is of a private or unknown transfer syntax; save it uncompressed (Explicit VR Little Endian)"
        )
    return uid


def _is_mosaic(dataset: Any) -> bool:
    """Mosaics of Siemens, by image type (or its private text, of XA), and grids of United Imaging, by their number of images.

    Siemens XA makes frames of the slices of a mosaic but leaves the image type (dcm2niix#553): only single frames count.
    """
    types = (dataset.get("ImageType"), dataset.get((0x0021, 0x1175)))
    grid = dataset.get((0x0065, 0x1050)) if "UIH" in str(dataset.get("Manufacturer")) else None
    return any("MOSAIC" in str(text).upper() for text in types) or grid is not None


def _values(dataset: Any, header: Header) -> NDArray[Any]:
    """Decoded and sign-extended; what lies in unused bits (old overlays) is dropped."""
    pydicom = load_pydicom()
    syntax = _syntax(dataset)
    if syntax.is_compressed and not syntax.is_deflated:
        _trust_streams(dataset, header)
        decoder = pydicom.pixels.get_decoder(syntax)
        if not decoder.is_available:
            raise UnsupportedError(
                f"no decoder for DICOM in {syntax.name} is installed; pip install 'rayscale[medical]'"
            )
    else:
        _check_length(dataset, header)
    failure = f"DICOM pixels are damaged {syntax.name}, or of a kind that no decoder knows"
    with discreetly(failure):
        values: NDArray[Any] = pydicom.pixels.pixel_array(dataset)
    expected = (header.slices,) * (header.slices > 1) + (header.height, header.width)
    expected += (header.channels,) * (header.channels > 1)
    if values.shape != expected or values.dtype.itemsize * 8 != header.bits:
        raise InputError(
            f"DICOM decodes to {values.dtype} {values.shape}, but its tags say {header.bits} bit {expected}: damaged"
        )
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    unused = header.bits - int(dataset.BitsStored)
    if unused:
        values = (values << unused) >> unused
    return values


def _check_length(dataset: Any, header: Header) -> None:
    """Uncompressed pixels must be all there."""
    needed = header.decoded_bytes
    if dataset.PhotometricInterpretation == "YBR_FULL_422":  # two pixels share their chroma
        needed = needed // 3 * 2
    if len(dataset.PixelData) < needed:
        raise InputError(
            f"DICOM is cut short: its tags promise {needed} bytes of pixels, {len(dataset.PixelData)} are there"
        )


def _trust_streams(dataset: Any, header: Header) -> None:
    """Compressed frames know their colour space better than the tags: these are often those of the picture before."""
    with discreetly("DICOM is damaged: its compressed frames cannot be told apart"):
        frames = load_pydicom().encaps.generate_frames(
            dataset.PixelData, number_of_frames=header.slices
        )
        found = {check_frame(frame, header) for frame in frames}
    if header.channels != 3 or found == {None}:
        return
    if len(found) > 1:
        raise UnsupportedError(
            "DICOM mixes frames of RGB and of YCbCr; split it into files of one colour space"
        )
    if ("YBR" in dataset.PhotometricInterpretation) != ("YBR_FULL" in found):
        (dataset.PhotometricInterpretation,) = found


def _levels(dataset: Any, header: Header, pixels: NDArray[Any], missing: Missing | None) -> Levels:
    """Known for a whole series where it says so: Hounsfield units, or its smallest and largest value; else measured."""
    stored = int(dataset.get("BitsStored", header.bits))
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    low = -(1 << (stored - 1)) if signed else 0
    limits = (float(low), float(low + (1 << stored) - 1))
    black, white, rule = 0.0, limits[1], f"0 to {limits[1]:.0f}, the range of {stored} stored bits"
    ends = [dataset.get(f"{end}PixelValueInSeries") for end in ("Smallest", "Largest")]
    slope, intercept = (
        float(dataset.get(f"Rescale{name}", None) or 0) for name in ("Slope", "Intercept")
    )
    if dataset.get("Modality") == "CT" and slope > 0:
        black, white = ((value - intercept) / slope for value in _CT_RANGE)
        rule = f"{_CT_RANGE[0]:.0f} to {_CT_RANGE[1]:.0f} Hounsfield units"
    elif all(isinstance(end, int) for end in ends) and ends[0] < ends[1]:
        black, white = map(float, ends)
        rule = f"{black:.0f} to {white:.0f}, smallest to largest value of the series"
    elif stored > 8:  # eight bits are for screens
        valid = True if missing is None else missing.valid
        found = Levels.of_measured(
            pixels.dtype, [(pixels, valid)], None, "of the object", pixels.size
        )
        (black,), (white,), rule = found.black, found.white, found.rule
    if dataset.PhotometricInterpretation == "MONOCHROME1":  # small values are bright
        black, white = white, black
    return Levels((black,), (white,), rule, 16, limits)


def _missing(pixels: NDArray[Any], dataset: Any) -> Missing | None:
    padding = dataset.get("PixelPaddingValue")
    if padding is None or pixels.shape[-1] > 1:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    first, last = sorted(
        _as_stored(int(v), pixels.dtype) for v in (padding, padding if limit is None else limit)
    )
    ends = np.iinfo(pixels.dtype)
    first, last = max(first, int(ends.min)), min(last, int(ends.max))
    if first > last:  # beyond what a pixel can hold
        return None
    return Missing.where(~((pixels >= first) & (pixels <= last)), (float(first), float(last)))


def _as_stored(value: int, dtype: np.dtype[Any]) -> int:
    """Some writers give the bits of a negative padding as unsigned, or the other way round: the pixels decide."""
    bits = dtype.itemsize * 8
    return int(np.int64(value).astype(dtype)) if -(1 << bits - 1) <= value < 1 << bits else value
