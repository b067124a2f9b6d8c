"""Plain TIFF and BigTIFF: one page of uint8 or uint16, any number of bands, strips or tiles.

The directory is checked here in full (sizes, offsets, codecs) before tifffile decodes the page. What is
refused by name: stacks of pages, palettes, CMYK. Georeferenced files, float and signed pixels belong to
``containers.geotiff``.
"""

from __future__ import annotations

import io
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayscale.errors import InputError, UnsupportedError
from rayscale.imaging import labels
from rayscale.imaging.containers import exif, jpeg, remarks
from rayscale.imaging.containers.ifd import MAX_VALUES, Ifd
from rayscale.imaging.containers.stacks import count_pages
from rayscale.imaging.description import Description
from rayscale.imaging.image import Header, Image
from rayscale.imaging.limits import METADATA_BYTES, check_size
from rayscale.imaging.orientation import ORIENTATION_TAG, upright, upright_dpi, upright_size
from rayscale.options import DEFAULTS, Handling

MAX_SEGMENTS = MAX_VALUES
"""Strips or tiles of one page; a 64-megapixel page of 16 x 16 tiles has 250 000."""

_SHARED_BYTES = 64 << 20

# Tag 259 to its name, for the codecs that are read; those whose value is in _WRITABLE are written back.
_CODECS = {
    1: "none", 5: "lzw", 7: "jpeg", 8: "deflate", 32773: "packbits", 32946: "deflate", 34925: "lzma",
    50000: "zstd",
}  # fmt: skip
_WRITABLE = {"none": 1, "lzw": 5, "deflate": 8, "packbits": 32773, "lzma": 34925, "zstd": 50000}
_WITH_PREDICTOR = {"lzw", "deflate", "lzma", "zstd"}

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 0, 1, 2, 6
_PHOTOMETRIC = {
    3: "a palette",
    4: "a mask",
    5: "CMYK",
    8: "CIELab",
    9: "CIELab",
    32803: "raw sensor data",
}

_XMP, _IPTC = 700, 33723

_SAMPLE_FORMATS = {5: "complex integer", 6: "complex float"}

# Damage is told by the error raised; tifffile's own log lines would only repeat it on the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class _Page:
    """The checked layout of the first page."""

    ifd: Ifd
    width: int
    height: int
    samples: int
    bits: int
    photometric: int
    planar: bool
    codec: str
    extrasamples: tuple[int, ...]
    orientation: int
    tile: tuple[int, int] | None
    pages: int

    @property
    def alpha(self) -> int | None:
        """Index of the alpha sample, None without."""
        for index, kind in enumerate(self.extrasamples):
            if kind in (1, 2):
                return self.samples - len(self.extrasamples) + index
        return None

    @property
    def header(self) -> Header:
        width, height = upright_size(self.width, self.height, self.orientation)
        alpha = self.alpha is not None
        return Header("tiff", width, height, self.samples - alpha, self.bits, self.pages, alpha)


def probe(data: bytes) -> Header:
    """Header of a TIFF, from its first directory and the length of the chain of directories."""
    return _layout(Ifd.first(data)).header


def read(data: bytes, max_pixels: int, handling: Handling = DEFAULTS) -> Image:
    """Decode the one page of a TIFF, upright, black at zero."""
    import tifffile

    page = _layout(Ifd.first(data))
    check_size(page.header, max_pixels)
    if page.pages > 1:
        raise UnsupportedError(
            f"TIFF is a stack of {page.pages} pages; only single pages are handled: split it"
        )
    _check_segments(page, data, max_pixels)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        array = file.pages[0].asarray()
    pixels = _bands(np.asarray(array), page)
    if page.photometric == _WHITE_IS_ZERO:
        pixels = pixels.copy()
        pixels[:, :, 0] = np.invert(pixels[:, :, 0])
    pixels = upright(pixels, page.orientation)
    alpha = None
    if page.alpha is not None:
        alpha = np.ascontiguousarray(pixels[:, :, page.alpha])
        pixels = np.delete(pixels, page.alpha, axis=2)
    colours = range(3 if page.photometric in (_RGB, _YCBCR) else 0)
    census = labels.Census(pixels.shape[2], colours)
    census.add(pixels)
    found, doubts = labels.settle(
        census.reasons(), census.doubts(), handling, lambda band: f"band {band + 1} of the TIFF"
    )
    description, notes = _description(page)
    return Image(
        pixels=pixels,
        container="tiff",
        labels=found,
        alpha=alpha,
        icc=page.ifd.raw(34675) or None,
        dpi=upright_dpi(remarks.read_dpi(page.ifd), page.orientation),
        text=remarks.read_text(page.ifd),
        description=description,
        notes=doubts + notes + remarks.notes_of(page.ifd),
        encoding=_encoding(page),
    )


def write(image: Image) -> bytes:
    """Encode any number of bands; layout and codec follow the source, deflate where it was JPEG.

    Remarks with the name of a text tag go there, all others into ImageDescription as ``name: text``.
    """
    import tifffile

    encoding = image.encoding
    rgb = encoding.get("photometric", "rgb" if image.channels == 3 else "minisblack") == "rgb"
    rgb = rgb and image.channels >= 3
    planes, extras = _planes(image, 3 if rgb else 1)
    planar = bool(encoding.get("planar", False)) and planes.shape[2] > 1
    codec = encoding.get("compression", "deflate")
    codec = codec if codec in _WRITABLE else "deflate"
    predictor = codec in _WITH_PREDICTOR and bool(encoding.get("predictor", True))
    floating = image.pixels.dtype.kind == "f"
    text = remarks.text_tags(image.text)
    options: dict[str, Any] = {"description": text.pop(remarks.DESCRIPTION, None)}
    # Type 7 would be honest for UTF-8, but every reader expects type 2 (ASCII) here.
    options["extratags"] = [
        (tag, 2, len(value) + 1, value + b"\0", True) for tag, value in text.items()
    ]
    if image.dpi and max(image.dpi) <= 0xFFFFFFFF:  # a rational of 32 bits
        # The description of ImageJ names the unit of the resolution, of which the tag knows inches and centimetres.
        inches = remarks.calibrated_inches(image.text.get("ImageDescription"))
        resolution = image.dpi if inches is None else tuple(side * inches for side in image.dpi)
        unit = remarks.INCH if inches is None else remarks.OTHER
        options |= {"resolution": resolution, "resolutionunit": unit}
    if planes.shape[2] == 1:
        stored = planes[:, :, 0]
    else:
        stored = np.moveaxis(planes, 2, 0) if planar else planes
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        np.ascontiguousarray(stored),
        photometric="rgb" if rgb else "minisblack",
        planarconfig=(2 if planar else 1) if planes.shape[2] > 1 else None,
        extrasamples=extras or None,
        compression=_WRITABLE[codec],
        predictor=(3 if floating else 2) if predictor else None,
        tile=encoding.get("tile"),
        bigtiff=True if encoding.get("bigtiff") else None,
        byteorder=encoding.get("byteorder", "<"),
        iccprofile=image.icc,
        metadata=None,
        software=False,
        **options,
    )
    described = _describe(image)
    return exif.with_tags(out.getvalue(), described) if described else out.getvalue()


def _description(page: _Page) -> tuple[Description | None, tuple[str, ...]]:
    """EXIF as a block of its own with the text tags of the page, XMP and IPTC; notes of what is left out."""
    ifd = page.ifd
    tree = exif.tree_of(ifd, (exif.EXIF_IFD, exif.GPS_IFD))
    if tree:
        tree |= exif.tree_of(ifd, tuple(tag for tag in remarks.TEXT if tag != remarks.DESCRIPTION))
        if ORIENTATION_TAG in ifd:
            tree[ORIENTATION_TAG] = exif.short_value(page.orientation)
    description, notes = Description.read(
        upright_size(page.width, page.height, page.orientation),
        page.orientation,
        exif_block=exif.new_block(tree) if tree else None,
        packet=_block(ifd, _XMP),
        iptc=_block(ifd, _IPTC),
    )
    if exif.has_maker_note(ifd):
        notes += (exif.MAKER_NOTE_LOST,)
    return description, notes


def _block(ifd: Ifd, tag: int) -> bytes | None:
    """A tag of the size of metadata, None when it is absent or damaged."""
    with suppress(InputError):
        raw = ifd.raw(tag)
        return bytes(raw) if raw and len(raw) <= METADATA_BYTES else None
    return None


def _describe(image: Image) -> exif.Tree:
    """What tifffile cannot write: directories of their own, and tags that it keeps to itself."""
    tags: exif.Tree = {}
    description = image.fitted_description
    if description is None:
        return tags
    if description.exif:
        untold = [tag for tag, name in remarks.TEXT.items() if name not in image.text]
        untold = [tag for tag in untold if tag != remarks.DESCRIPTION]
        tags |= exif.tree_of(Ifd.first(description.exif), (exif.EXIF_IFD, exif.GPS_IFD, *untold))
    if description.xmp:
        tags[_XMP] = exif.bytes_value(description.xmp)
    if description.iptc:
        tags[_IPTC] = exif.bytes_value(description.iptc, kind=7)
    return tags


def _layout(ifd: Ifd) -> _Page:
    width, height = ifd.integer(256, 0), ifd.integer(257, 0)
    samples = ifd.integer(277, 1)
    bits = set(ifd.numbers(258)) or {1}
    formats = set(ifd.numbers(339)) or {1}
    photometric = ifd.integer(262, _BLACK_IS_ZERO)
    compression = ifd.integer(259, 1)
    _check_kind(ifd, bits, formats, photometric, compression)
    base = 3 if photometric in (_RGB, _YCBCR) else 1
    if not base <= samples <= 0xFFFF:
        raise InputError(f"TIFF claims {samples} samples for a picture of {base}: damaged")
    extras = tuple(ifd.numbers(338))[: samples - base]
    extras += (0,) * (samples - base - len(extras))
    orientation = ifd.integer(ORIENTATION_TAG, 1)
    tiled = 322 in ifd or 323 in ifd
    return _Page(
        ifd=ifd,
        width=width,
        height=height,
        samples=samples,
        bits=bits.pop(),
        photometric=photometric,
        planar=ifd.integer(284, 1) == 2,
        codec=_CODECS[compression],
        extrasamples=extras,
        orientation=orientation if 1 <= orientation <= 8 else 1,
        tile=(ifd.integer(323, 0), ifd.integer(322, 0)) if tiled else None,
        pages=count_pages(ifd),
    )


def _check_kind(
    ifd: Ifd, bits: set[int], formats: set[int], photometric: int, compression: int
) -> None:
    """Refuse by name what is not handled."""
    if formats - {1, 4}:
        kind = _SAMPLE_FORMATS.get(max(formats), f"format {max(formats)}")
        raise UnsupportedError(
            f"TIFF pixels are {max(bits)}-bit {kind}; only real numbers are handled"
        )
    if bits not in ({8}, {16}):
        raise UnsupportedError(
            f"TIFF pixels have {', '.join(map(str, sorted(bits)))} bit; only 8 and 16 bit are handled: convert it"
        )
    if compression not in _CODECS:
        raise UnsupportedError(
            f"TIFF compression {compression} is not handled; re-save it with deflate or LZW"
        )
    known = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
    if photometric not in known and not (photometric == _YCBCR and compression == 7):
        kind = _PHOTOMETRIC.get(photometric, f"of colour space {photometric}")
        raise UnsupportedError(
            f"TIFF is {kind}; only grey, RGB and plain bands are handled: convert it"
        )
    if compression == 7 and bits != {8}:
        raise UnsupportedError(
            "TIFF holds 16-bit JPEG, which is not handled; re-save it with deflate"
        )


def _check_segments(page: _Page, data: bytes, max_pixels: int) -> None:
    """Every strip or tile lies in the file and promises no more than its place in the picture."""
    ifd, header = page.ifd, page.header
    if page.tile:
        rows, columns = page.tile
        if rows < 1 or columns < 1:
            raise InputError(f"TIFF tiles of {columns} x {rows} pixels: damaged")
        check_size(
            Header("tiff", columns, rows, header.channels, page.bits, 1, header.alpha), max_pixels
        )
        offsets, counts, what = ifd.numbers(324), ifd.numbers(325), "tile"
    else:
        rows, columns = min(ifd.integer(278, page.height), page.height), page.width
        if rows < 1:
            raise InputError("TIFF strips of 0 rows: damaged")
        offsets, counts, what = ifd.numbers(273), ifd.numbers(279), "strip"
    across, down = -(-page.width // columns), -(-page.height // rows)
    expected = across * down * (page.samples if page.planar else 1)
    if expected > MAX_SEGMENTS:
        raise InputError(
            f"TIFF has {expected} {what}s, more than {MAX_SEGMENTS}; re-save it with larger ones"
        )
    if len(offsets) < expected or len(counts) < expected:
        raise InputError(
            f"TIFF needs {expected} {what}s, but lists {min(len(offsets), len(counts))}: damaged"
        )
    # Strips may share bytes (blank tiles often do), but not so that a small file means endless work.
    if sum(counts[:expected]) > 4 * len(data) + _SHARED_BYTES:
        raise InputError(
            f"TIFF {what}s add up to far more than the {len(data)} bytes of the file: damaged"
        )
    for index in range(expected):
        # The last strip is short, but some writers pad its JPEG to the full height.
        whole = page.tile or page.codec == "jpeg"
        height = rows if whole else min(rows, page.height - index % down * rows)
        name = f"{what} {index} of {expected}"
        _check_segment(page, data, name, offsets[index], counts[index], (height, columns))


def _check_segment(
    page: _Page, data: bytes, name: str, offset: int, count: int, shape: tuple[int, int]
) -> None:
    rows, columns = shape
    if count < 1 or offset < 8:
        raise InputError(f"TIFF {name} holds no data: sparse or damaged")
    if offset + count > len(data):
        raise InputError(
            f"TIFF is cut short: {name} ends at byte {offset + count}, the file has {len(data)}"
        )
    needed = rows * columns * (1 if page.planar else page.samples) * page.bits // 8
    if page.codec == "none" and count < needed:
        raise InputError(f"TIFF {name} holds {count} bytes where {needed} are needed: damaged")
    if page.codec == "jpeg":
        wide, high = jpeg.frame_size(data[offset : offset + count])
        if wide > columns or high > rows:
            raise InputError(
                f"TIFF {name} holds a JPEG of {wide} x {high} where {columns} x {rows} fit: damaged"
            )


def _bands(array: np.ndarray, page: _Page) -> np.ndarray:
    """``array`` as decoded, to (H, W, samples)."""
    planar = page.planar and page.samples > 1
    picture = (page.height, page.width)
    shape = (page.samples, *picture) if planar else (*picture, page.samples)
    dtype = np.dtype(f"u{page.bits // 8}")
    if array.size != np.prod(shape, dtype=np.int64) or array.dtype != dtype:
        raise InputError(
            f"TIFF decodes to {array.dtype} {array.shape}, but its tags say {dtype} {shape}: damaged"
        )
    array = array.reshape(shape)
    return np.moveaxis(array, 0, 2) if planar else array


def _planes(image: Image, base: int) -> tuple[np.ndarray, list[int]]:
    """Pixels with alpha at the place the source had it, and the kind of each sample past ``base``."""
    if image.alpha is None:
        return image.pixels, [0] * (image.channels - base)
    source = list(image.encoding.get("extrasamples", ()))
    if len(source) != image.channels + 1 - base or not {1, 2} & set(source):
        source = [0] * (image.channels - base) + [2]
    place = base + next(index for index, kind in enumerate(source) if kind in (1, 2))
    return np.insert(image.pixels, place, image.alpha, axis=2), source


def _encoding(page: _Page) -> dict[str, Any]:
    predictor = page.ifd.integer(317, 1) == 2
    encoding: dict[str, Any] = {
        "photometric": "rgb" if page.photometric in (_RGB, _YCBCR) else "minisblack",
        "compression": page.codec,
        "predictor": predictor or page.codec == "jpeg",
        "byteorder": page.ifd.order,
    }
    if page.planar and page.samples > 1:
        encoding["planar"] = True
    if page.ifd.big:
        encoding["bigtiff"] = True
    if page.alpha is not None:
        encoding["extrasamples"] = page.extrasamples
    if page.tile and not (page.tile[0] % 16 or page.tile[1] % 16):
        encoding["tile"] = page.tile
    return encoding
