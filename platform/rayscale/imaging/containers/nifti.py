"""NIfTI-1 and NIfTI-2, plain or gzipped: volumes and series of volumes, enlarged slice by slice in the first two axes.

The header is read here, with every size checked, before anything is inflated; nibabel names its fields and computes the qform.
Values stay as stored (slope and intercept are kept, not applied). Pairs of .hdr and .img are refused.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError, TooLargeError, UnsupportedError, quantity
from rayscale.extras import load
from rayscale.imaging import labels
from rayscale.imaging.image import Header, Image
from rayscale.imaging.levels import Levels
from rayscale.imaging.limits import METADATA_BYTES, check_size
from rayscale.imaging.missing import Missing
from rayscale.imaging.provenance import Provenance
from rayscale.options import DEFAULTS, Handling
from rayscale.resampling import enlarged, exact_scale

_GZIP = b"\x1f\x8b"
_HEADER_BYTES = {1: 348, 2: 540}
_DATA_OFFSET = {1: 352, 2: 544}
_ROUNDING = 1e-3
"""By how much the square of b, c, d may exceed 1: writers round, to three decimals or to float32."""

_PLACED = "NIfTI does not say where its values begin; they were read from byte {}, after the header"
_SILENT = logging.Logger("nibabel", logging.CRITICAL + 1)
_COMMENT = 6  # extension code of plain text
# Intent codes of what is not a picture, and those of CIFTI.
_CLASSES = {1002: "labels", 1003: "names of structures", 2002: "indices of nodes"}
_OTHERS = {1008: "points of a mesh", 1009: "triangles of a mesh", 1010: "quaternions"}
_CIFTI = range(3000, 3100)
_FEW = 8  # values of a volume that is not an image: scanners measure hundreds
_MOST = {1: 32767, 2: (1 << 63) - 1}

# Datatype code to numpy; what is not here is refused by the name below.
_TYPES = {2: "u1", 256: "i1", 512: "u2", 4: "i2", 768: "u4", 8: "i4", 16: "f4", 64: "f8"}
_REFUSED = {
    1: "bits", 32: "complex numbers", 128: "colours", 1024: "64-bit integers", 1280: "64-bit integers",
    1536: "128-bit floats", 1792: "complex numbers", 2048: "complex numbers", 2304: "colours",
}  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """The checked header: version 1 or 2, byte order, sizes of the axes, type, place and intent code of the values.

    ``placed`` is False where the header names no place, and the values follow it.
    """

    version: int
    order: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    intent: int
    placed: bool = True

    @property
    def header(self) -> Header:
        slices = math.prod(self.shape[2:])
        bits = self.dtype.itemsize * 8
        return Header("nifti", self.shape[0], self.shape[1], 1, bits, slices=slices)

    @property
    def end(self) -> int:
        """Bytes of the file, up to the last value."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class NiftiMetadata:
    """The header and the extensions, byte for byte, and how much the first two axes were enlarged since."""

    raw: bytes
    extensions: bytes
    layout: _Layout
    scale: float = 1.0
    containers: tuple[str, ...] = ("nifti", "nifti-gz")

    def scaled(self, scale: float) -> NiftiMetadata:
        """The same world coordinates under ``scale`` times as many voxels along the first two axes."""
        width, height, *rest = self.layout.shape
        shape = (enlarged(width, scale), enlarged(height, scale), *rest)
        total = self.scale * float(exact_scale(scale))
        return replace(self, layout=replace(self.layout, shape=shape), scale=total)

    def describe(self) -> dict[str, Any]:
        """Version, voxel sizes and the map to the world."""
        header = _nibabel_header(self)
        slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
        facts: dict[str, Any] = {
            "version": self.layout.version,
            "shape": list(self.layout.shape),
            "voxel_size": [float(size) for size in header["pixdim"][1:4]],
            "sform": int(header["sform_code"]),
            "qform": int(header["qform_code"]),
        }
        if math.isfinite(slope) and slope not in (0, 1):
            facts |= {"slope": slope, "intercept": intercept}
        return facts

    def affine(self) -> NDArray[Any] | None:
        """From voxel indices of the file as it was read to the world, ``(4, 4)``; None where the header places nothing."""
        header = _nibabel_header(self)
        if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
            return None
        return np.asarray(header.get_best_affine())

    def of_deviations(self) -> NiftiMetadata:
        """The same place; float32, and of slope and intercept the slope alone."""
        header = _nibabel_header(self)
        header["datatype"], header["bitpix"] = 16, 32
        header["scl_slope"] = abs(header["scl_slope"])
        for name in ("scl_inter", "cal_min", "cal_max"):
            header[name] = 0
        layout = replace(self.layout, dtype=np.dtype(self.layout.order + "f4"))
        return replace(self, raw=header.binaryblock, layout=layout)


def kind(data: bytes) -> str | None:
    """Name of the container when ``data`` begins like a NIfTI, inflating no more than its header."""
    if data.startswith(_GZIP):
        try:
            return None if _version(_inflate_head(data)) is None else "nifti-gz"
        except zlib.error:
            return None
    return None if _version(data) is None else "nifti"


def probe(data: bytes) -> Header:
    """Header of a NIfTI; at most a kilobyte of a gzipped one is inflated."""
    zipped = data.startswith(_GZIP)
    header = _layout(_inflate_head(data) if zipped else data).header
    return replace(header, container="nifti-gz" if zipped else "nifti")


def read(data: bytes, max_pixels: int, handling: Handling = DEFAULTS) -> Image:
    """All slices as pixels ``(N, H, W, 1)``: H is the second axis of the file, W the first, N all others."""
    header = probe(data)
    check_size(header, max_pixels)
    if header.container == "nifti-gz":
        layout = _layout(_inflate_head(data))
        with gzip.open(io.BytesIO(data)) as stream:
            data = stream.read(layout.end)
            # The checksum follows the last byte and is only compared there.
            while stream.read(1 << 16):
                if stream.tell() > layout.end + METADATA_BYTES:
                    raise InputError(
                        f"NIfTI goes on for more than {METADATA_BYTES} bytes after the {layout.end} that its header promises; it "
                        "is damaged, or something else was appended"
                    )
    layout = _layout(data)
    if len(data) < layout.end:
        raise InputError(
            f"NIfTI is cut short: its header promises {layout.end} bytes, {len(data)} are there"
        )
    values = np.frombuffer(data, layout.dtype, math.prod(layout.shape), layout.offset)
    width, height = layout.shape[:2]
    pixels = values.astype(layout.dtype.newbyteorder("="), copy=False)
    pixels = pixels.reshape(-1, height, width, 1)
    missing = None
    if pixels.dtype.kind == "f":
        missing = Missing.where(np.isfinite(pixels))
    found, doubts = _labels(pixels, missing, layout.intent, handling)
    head = data[: _HEADER_BYTES[layout.version]]
    metadata = NiftiMetadata(head, _extensions(data, layout), layout)
    _forms(_nibabel_header(metadata))  # what could not be written is refused here
    return Image(
        pixels=pixels,
        container=header.container,
        levels=_levels(pixels, missing),
        missing=missing,
        metadata=metadata,
        labels=found,
        notes=doubts + (() if layout.placed else (_PLACED.format(layout.offset),)),
    )


def write(image: Image, provenance: Provenance | None) -> bytes:
    """Encode in the version and byte order of the source, with provenance as an extension of plain text."""
    meta = image.metadata
    if not isinstance(meta, NiftiMetadata):
        raise UnsupportedError("a NIfTI can only be made from a NIfTI; write this image as TIFF")
    layout = meta.layout
    if max(layout.shape) > _MOST[layout.version]:
        raise UnsupportedError(
            f"NIfTI-1 holds up to {_MOST[1]} voxels along an axis, not {max(layout.shape)}; convert the source to "
            "NIfTI-2"
        )
    extensions = meta.extensions
    if provenance is not None:
        extensions += _extension(layout, provenance.to_json().encode())
    offset = _DATA_OFFSET[layout.version] + len(extensions)
    header = _geometry(meta, offset)
    if provenance is not None and not bytes(header["descrip"]).strip(b"\0 "):
        header["descrip"] = f"{provenance.software}: {provenance.model}".encode()[:79]
    extender = bytes([bool(extensions), 0, 0, 0])
    pixels = np.ascontiguousarray(image.pixels, layout.dtype)
    content = header.binaryblock + extender + extensions + pixels.tobytes()
    return gzip.compress(content, 6, mtime=0) if image.container == "nifti-gz" else content


def _geometry(meta: NiftiMetadata, offset: int) -> Any:
    """The header of the enlarged volume: voxel (i, j, k) has its centre at ((i + 1/2) / r - 1/2, ..., k) of the source.

    Fields are changed in place rather than through nibabel's setters, which would compute a quaternion anew.
    """
    layout, r = meta.layout, meta.scale
    header = _nibabel_header(meta)
    header["vox_offset"] = offset
    header["dim"][1:3] = layout.shape[:2]
    if r == 1:
        return header
    shift = (1 - r) / (2 * r)
    step = np.array([[1 / r, 0, 0, shift], [0, 1 / r, 0, shift], [0, 0, 1, 0], [0, 0, 0, 1]])
    qform, sform = _forms(header)
    if qform is not None:
        for name, value in zip("xyz", qform @ step[:, 3], strict=False):
            header[f"qoffset_{name}"] = value
    if sform is not None:
        for name, row in zip("xyz", sform @ step, strict=True):
            header[f"srow_{name}"] = row
    with np.errstate(invalid="ignore"):
        header["pixdim"][1:3] /= r
    if int(header["dim_info"]) >> 4 in (1, 2):  # slices were acquired along an enlarged axis
        header["slice_code"] = header["slice_start"] = header["slice_end"] = 0
    return header


def _forms(header: Any) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """The maps of quaternion and rows to the world; None for one that holds no numbers and is not the one that rules."""
    with np.errstate(invalid="ignore"):
        rows: NDArray[Any] | None = np.array([header[f"srow_{name}"] for name in "xyz"], float)
        turn: NDArray[Any] | None = header.get_qform() if int(header["qform_code"]) > 0 else None
    if int(header["sform_code"]) > 0:
        name, ruling = "sform (srow_x, srow_y, srow_z)", rows
    else:
        name, ruling = "qform (quaternion, offsets, voxel sizes)", turn
    if ruling is not None and not np.isfinite(ruling).all():
        raise InputError(
            f"NIfTI header is damaged: its {name} holds values that are not numbers; correct it, or set its code to 0"
        )
    qform, sform = (
        None if form is None or not np.isfinite(form).all() else form for form in (turn, rows)
    )
    return qform, sform


def _nibabel_header(meta: NiftiMetadata) -> Any:
    """The header as readers take it: an axis flip of 0 (qfac) and a voxel size of 0 are 1, a negative size is positive."""
    nibabel = load("nibabel", "medical")
    cls = nibabel.Nifti1Header if meta.layout.version == 1 else nibabel.Nifti2Header
    header = cls(meta.raw, endianness=meta.layout.order, check=False)
    header.check_fix(_SILENT, error_level=logging.CRITICAL)
    _normalize_quaternion(header)
    return header


def _normalize_quaternion(header: Any) -> None:
    """A rotation of half a turn that rounding made longer than 1 has length 1, as nifti1_io and ITK have it."""
    names = [f"quatern_{part}" for part in "bcd"]
    square = sum(float(header[name]) ** 2 for name in names)
    if int(header["qform_code"]) == 0 or not square > 1:
        return
    if square > 1 + _ROUNDING:
        raise InputError(
            f"NIfTI header is damaged: its quaternion (b, c, d) has length {math.sqrt(square):.7g}, and that of a "
            "rotation is 1 at most"
        )
    for name in names:
        header[name] = float(header[name]) / math.sqrt(square)


def _inflate_head(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data[:4096], _DATA_OFFSET[2])


def _version(head: bytes) -> int | None:
    if head[344:348] == b"n+1\0":
        return 1
    return 2 if head[4:8] == b"n+2\0" else None


def _layout(head: bytes) -> _Layout:
    version = _version(head)
    if version is None or len(head) < _DATA_OFFSET[version]:
        raise InputError(f"NIfTI header is damaged or cut short ({len(head)} bytes)")
    size = int.from_bytes(head[:4], "little")
    order = "<" if size == _HEADER_BYTES[version] else ">"
    if order == ">" and int.from_bytes(head[:4], "big") != _HEADER_BYTES[version]:
        raise InputError(f"NIfTI header is damaged: its own size is {size}")

    def field(kind: str, at: int, count: int = 1) -> list[Any]:
        return list(np.frombuffer(head, order + kind, count, at).tolist())

    first = version == 1
    axes, *sizes = field("i2", 40, 8) if first else field("i8", 16, 8)
    (datatype,) = field("i2", 70 if first else 12)
    (offset,) = field("f4", 108) if first else field("i8", 168)
    (intent,) = field("i2", 68) if first else field("i4", 504)
    if not 1 <= axes <= 7 or any(size < 1 for size in sizes[:axes]):
        raise InputError(f"NIfTI header is damaged: {axes} axes of {sizes[: max(0, axes)]} voxels")
    if axes < 2:
        raise UnsupportedError(
            f"NIfTI of {quantity(sizes[0], 'value')} along one axis holds no image"
        )
    if datatype not in _TYPES:
        what = _REFUSED.get(datatype, f"values of type {datatype}")
        raise UnsupportedError(
            f"NIfTI holds {what}; only integers of 8 to 32 bit and floats of 32 and 64 bit are handled: convert it"
        )
    if intent in _OTHERS or intent in _CIFTI:
        what = _OTHERS.get(intent, "grey ordinates or their connectivity (CIFTI)")
        raise UnsupportedError(f"NIfTI holds {what} (intent code {intent}), which is not an image")
    # Taken for the end of the header, unless extensions lie there.
    placed = offset != 0 or bool(head[_HEADER_BYTES[version]])
    if not placed:
        offset = _DATA_OFFSET[version]
    if not _DATA_OFFSET[version] <= offset <= _DATA_OFFSET[version] + METADATA_BYTES:  # NaN too
        raise InputError(
            f"NIfTI header is damaged: its values begin at byte {offset}, not from {_DATA_OFFSET[version]} to "
            f"{_DATA_OFFSET[version] + METADATA_BYTES}"
        )
    dtype = np.dtype(order + _TYPES[datatype])
    return _Layout(version, order, tuple(sizes[:axes]), dtype, int(offset), int(intent), placed)


def _extensions(data: bytes, layout: _Layout) -> bytes:
    """The extensions as they lie in the file; unused bytes after the last one are left out."""
    start = at = _DATA_OFFSET[layout.version]
    if not data[at - 4]:
        return b""
    while at + 8 <= layout.offset:
        size = int(np.frombuffer(data, layout.order + "i4", 1, at)[0])
        if size < 16 or size % 16 or at + size > layout.offset:
            break  # padding, or damage that no reader would follow
        at += size
    return data[start:at]


def _extension(layout: _Layout, text: bytes) -> bytes:
    """One extension: size, code, text, padded to a multiple of 16 bytes."""
    size = -(-(len(text) + 8) // 16) * 16
    if size > METADATA_BYTES:
        raise TooLargeError(f"provenance of {len(text)} bytes is over {METADATA_BYTES}")
    return np.array([size, _COMMENT], layout.order + "i4").tobytes() + text.ljust(size - 8, b"\0")


def _labels(
    pixels: NDArray[Any], missing: Missing | None, intent: int, handling: Handling
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Whether the one channel is labels, by the intent or, as most programs write none, by its values; and notes."""
    reasons, doubts = {}, {}
    if intent in _CLASSES:
        reasons[0] = f"its intent code {intent} stands for {_CLASSES[intent]}"
    else:
        census = labels.Census(1, few=_FEW)
        census.add(pixels, None if missing is None else missing.valid)
        reasons, doubts = census.reasons(), census.doubts()
    return labels.settle(reasons, doubts, handling, lambda _: "NIfTI")


def _levels(pixels: NDArray[Any], missing: Missing | None) -> Levels:
    """One range for all slices and times, so that they stay comparable; never bfloat16, not even for 8 bit."""
    valid = True if missing is None else missing.valid
    found = Levels.of_measured(pixels.dtype, [(pixels, valid)], None, "of the volume", pixels.size)
    return replace(found, bits=16)
