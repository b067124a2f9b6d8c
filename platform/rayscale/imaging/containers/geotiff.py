"""GeoTIFF through GDAL: any bands of any real type, with everything that places them on the ground.

Also the reader of TIFFs that hold more than a picture: signed and floating values, nodata, masks. Sizes are
checked in the tag directory before GDAL opens the bytes, and GDAL may use its GTiff driver only: bytes named .tif can be
a VRT, which can read any file. Written as Cloud-Optimised GeoTIFF by GDAL's own COG driver.

Whole files in memory here; ``rayscale.imaging.scene`` reads and writes files on disk by windows, under the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError, UnsupportedError
from rayscale.imaging import labels
from rayscale.imaging.containers import gdal
from rayscale.imaging.containers.geometadata import (
    GDAL_METADATA,
    GeoMetadata,
    metadata_of,
    placement,
    places,
    put_metadata,
)
from rayscale.imaging.containers.ifd import MASK, Ifd
from rayscale.imaging.containers.stacks import count_pages
from rayscale.imaging.image import Header, Image
from rayscale.imaging.levels import PIXEL_TYPES, Levels
from rayscale.imaging.limits import check_size
from rayscale.imaging.missing import Missing
from rayscale.imaging.provenance import Provenance
from rayscale.options import DEFAULTS, Handling

_PLACED = (33550, 33922, 34264, 50844)  # scale, tie points, matrix, RPC
_SYSTEM = (34735,)  # keys of the coordinate reference system
_NODATA = 42113
_SIGNED, _FLOAT = 2, 3

_LEAST_SCALE, _MOST_SCALE = 1e-5, 1e-3
"""Of stored reflectance."""

MAX_BANDS = 4096
"""More than any instrument has; GDAL keeps an object for each."""

MAX_SIDE = 1 << 30

_OTHER_COLOURS = {0: "inverted (0 is white)", 5: "CMYK", 8: "CIELab", 9: "ICCLab", 10: "ITULab"}
"""Photometric interpretations that are refused."""


def claims(data: bytes | mmap) -> bool:
    """Whether these bytes of a TIFF hold more than a picture, judged by the tags of the first directory."""
    try:
        ifd = Ifd.first(data)
        formats = ifd.numbers(339)
        return (
            is_tagged(ifd)
            or _SIGNED in formats
            or _FLOAT in formats
            or any(kind & MASK for kind in ifd.following_kinds())
        )
    except InputError:
        return False  # the plain reader says what is wrong


def is_tagged(ifd: Ifd) -> bool:
    """Whether a directory has tags of GDAL or of a place."""
    return any(tag in ifd for tag in (*_PLACED, *_SYSTEM, GDAL_METADATA, _NODATA))


def probe(data: bytes) -> Header:
    """Header of a GeoTIFF, from its first directory; GDAL is not asked."""
    return check_header(Ifd.first(data))


def read(data: bytes, max_pixels: int, handling: Handling = DEFAULTS) -> Image:
    """Decode all bands of the first page."""
    ifd = Ifd.first(data)
    header = check_header(ifd)
    check_size(header, max_pixels)
    check_pages(header)
    check_size(block(header, ifd.integer(322, 1), ifd.integer(323, 1)), max_pixels)
    with (
        gdal.reading() as rasterio,
        rasterio.MemoryFile(data, filename="scene.tif") as file,
        file.open(driver="GTiff") as dataset,
    ):
        layout = layout_of(dataset)
        pixels, mask = read_bands(dataset, layout), read_mask(dataset, layout)
        meta = metadata_of(dataset, ifd, layout.indexes, layout.alpha)
        missing = missing_of(pixels, mask, meta.nodata)
        found, doubts = labels_of(dataset, layout, handling, [(pixels, missing)])
    return Image(
        pixels=pixels,
        container="geotiff",
        levels=levels_of(pixels.dtype, meta, [(pixels, missing)], header.pixels, handling),
        missing=missing,
        metadata=replace(meta, mask=mask),
        labels=found,
        notes=doubts + notes_of(layout, meta, [mask]),
    )


def write(image: Image, provenance: Provenance | None) -> bytes:
    """Encode as Cloud-Optimised GeoTIFF with overviews, in the compression of the source."""
    meta = image.metadata
    if not isinstance(meta, GeoMetadata):
        raise UnsupportedError(
            "a GeoTIFF can only be made from a GeoTIFF; write this image as TIFF"
        )
    if image.encoding.get("lossless"):
        meta = meta.without_loss()
    count = image.channels + (meta.alpha is not None)
    with (
        gdal.writing("the GeoTIFF") as rasterio,
        rasterio.MemoryFile(ext=".tif") as file,
        rasterio.open(
            "scene", "w", driver="MEM", width=image.width, height=image.height, count=count,
            dtype=image.pixels.dtype.name, **placement(meta),
        ) as scene,
    ):  # fmt: skip
        put_metadata(scene, meta)
        write_bands(scene, meta, image.pixels, meta.mask)
        if provenance is not None:
            scene.update_tags(RAYSCALE=provenance.to_json())
        gdal.write_cog(scene, file.name, meta, labels=bool(image.labels))
        data = bytearray(file.read())
    gdal.return_band_tags(data)
    gdal.put_epoch(data, meta)
    return bytes(data)


def check_header(ifd: Ifd) -> Header:
    """The header; UnsupportedError for pixels that are not measurements, or not of one type."""
    samples, bits = ifd.integer(277, 1), max(ifd.numbers(258) or [1])
    formats = set(ifd.numbers(339)) or {1}
    if formats - {1, _SIGNED, _FLOAT, 4} or len(formats) > 1:
        raise UnsupportedError(
            f"GeoTIFF pixels are of sample format {', '.join(map(str, sorted(formats)))}; only real numbers of one "
            "type are handled: split or convert it"
        )
    photometric, turned = ifd.integer(262, 1), ifd.integer(274, 1)
    if photometric in _OTHER_COLOURS:
        raise UnsupportedError(
            f"GeoTIFF pixels are {_OTHER_COLOURS[photometric]}, which could not be written back; convert it to grey, RGB "
            "or bands without colour"
        )
    if turned != 1:
        raise UnsupportedError(
            f"GeoTIFF has the orientation {turned}, and GDAL leaves pixels as they are stored; turn it upright first, or set "
            "the tag to 1 where the georeference already says how it lies"
        )
    if bits < 8:
        raise UnsupportedError(
            f"GeoTIFF pixels have {bits} bit; that is a mask or a class, not a measurement"
        )
    if not 1 <= samples <= MAX_BANDS:
        raise UnsupportedError(f"GeoTIFF claims {samples} bands; 1 to {MAX_BANDS} are handled")
    alpha = any(kind in (1, 2) for kind in ifd.numbers(338)[:samples]) and samples > 1
    width = 8 if bits == 8 else 16 if bits <= 16 else 32 if bits <= 32 else bits
    stored = max(width, 32) if formats == {_FLOAT} else width  # GDAL widens half floats
    return Header(
        "geotiff",
        ifd.integer(256, 0),
        ifd.integer(257, 0),
        samples - alpha,
        stored,
        count_pages(ifd),
        alpha,
    )


def check_pages(header: Header) -> None:
    """UnsupportedError for a stack."""
    if header.pages > 1:
        raise UnsupportedError(
            f"GeoTIFF is a stack of {header.pages} pages; only single pages are handled: split it"
        )


def block(header: Header, width: int, height: int) -> Header:
    """The header of one tile or strip: GDAL decodes it whole, however small the file is."""
    return Header("geotiff", width, height, header.channels, header.bits)


@dataclass(frozen=True)
class Layout:
    """Where an open dataset keeps what.

    ``indexes``: bands of the pixels, counted from 1; ``alpha``: index of the alpha band, counted from 0; ``masked``:
    whether there is an internal mask instead.
    """

    indexes: tuple[int, ...]
    alpha: int | None
    masked: bool


def layout_of(dataset: Any) -> Layout:
    """The layout of an open dataset; UnsupportedError when it holds values of an unknown type."""
    enums = gdal.library().enums
    dtype = np.dtype(dataset.dtypes[0])
    if dtype not in PIXEL_TYPES:
        raise UnsupportedError(f"GeoTIFF pixels are {dtype}; convert it to float32")
    colours = dataset.colorinterp
    alpha = colours.index(enums.ColorInterp.alpha) if enums.ColorInterp.alpha in colours else None
    indexes = tuple(index for index in dataset.indexes if index - 1 != alpha)
    if not indexes:
        raise UnsupportedError("GeoTIFF has only an alpha band: nothing to upscale")
    masked = alpha is None and enums.MaskFlags.per_dataset in dataset.mask_flag_enums[0]
    return Layout(indexes, alpha, masked)


def labels_of(
    dataset: Any,
    layout: Layout,
    handling: Handling,
    parts: Iterable[tuple[NDArray[Any], Missing | None]],
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The channels that are labels, by what is said of them or by their values, and notes; see ``rayscale.imaging.labels``.

    ``parts`` are as in :func:`levels_of`. Raises UnsupportedError when there are some and ``handling`` refuses them.
    """
    colour = gdal.library().enums.ColorInterp
    pictures = (colour.red, colour.green, colour.blue, colour.palette)
    reasons, apart = {}, set()
    for channel, index in enumerate(layout.indexes):
        kind = dataset.colorinterp[index - 1]
        reason = labels.named(dataset.descriptions[index - 1])
        if kind == colour.palette:
            reason = "it has a palette"
        elif dataset.tags(index).get("LAYER_TYPE") == "thematic":
            reason = "its layer type is thematic"
        if reason is not None:
            reasons[channel] = reason
        if reason is not None or kind in pictures:
            apart.add(channel)
    census = labels.Census(len(layout.indexes), apart)
    seen = ((pixels, None if missing is None else missing.valid) for pixels, missing in parts)
    labels.survey(seen, census)
    reasons |= census.reasons()
    return labels.settle(
        reasons, census.doubts(), handling, lambda at: f"band {layout.indexes[at]} of the GeoTIFF"
    )


def read_bands(dataset: Any, layout: Layout, window: Any = None) -> NDArray[Any]:
    """Pixels ``(H, W, C)`` of a window of rasterio, or of everything."""
    return np.ascontiguousarray(np.moveaxis(dataset.read(layout.indexes, window=window), 0, 2))


def read_mask(dataset: Any, layout: Layout, window: Any = None) -> NDArray[Any] | None:
    """Validity ``(H, W)`` as stored, 0 where nothing was measured; None without alpha and mask."""
    if layout.alpha is not None:
        return np.asarray(dataset.read(layout.alpha + 1, window=window))
    return np.asarray(dataset.dataset_mask(window=window)) if layout.masked else None


def notes_of(
    layout: Layout, meta: GeoMetadata, masks: Iterable[NDArray[Any] | None]
) -> tuple[str, ...]:
    """What a user must know of how a file was read; ``masks`` are its validity as in :func:`read_mask`, piece by piece."""
    notes = _notes_of_alpha(layout, masks)
    if meta.described:
        notes += (
            f"{', '.join(meta.described)} of the file are not kept; copy them into the result (exiftool -TagsFromFile SOURCE FILE)",
        )
    return notes


def _notes_of_alpha(layout: Layout, masks: Iterable[NDArray[Any] | None]) -> tuple[str, ...]:
    """Of an alpha band that may be none.

    Some writers mark the fourth band of RGB and near infrared as alpha. Transparency is mostly all or nothing,
    measurements are not.
    """
    if layout.alpha is None:
        return ()
    partial = total = 0
    for mask in masks:
        assert mask is not None
        opaque = 1.0 if mask.dtype.kind == "f" else np.iinfo(mask.dtype).max
        partial += int(np.count_nonzero((mask > 0) & (mask != opaque)))
        total += mask.size
    if 2 * partial <= total:
        return ()
    band = layout.alpha + 1
    return (
        f"band {band} is marked as alpha, so it was enlarged as transparency, and where it is 0 pixels count as missing; if it holds "
        f"measurements such as near infrared, mark it as a band first (gdal_edit.py -colorinterp_{band} undefined FILE)",
    )


def write_bands(
    scene: Any,
    meta: GeoMetadata,
    pixels: NDArray[Any],
    mask: NDArray[Any] | None,
    window: Any = None,
) -> None:
    """Write pixels ``(H, W, C)`` and their validity, as in :func:`read_mask`, to a window or everywhere."""
    for place, plane in zip(places(meta, scene.count), np.moveaxis(pixels, 2, 0), strict=True):
        scene.write(plane, place, window=window)
    if mask is not None and meta.alpha is not None:
        scene.write(mask, meta.alpha + 1, window=window)
    elif mask is not None:
        scene.write_mask(mask, window=window)


def missing_of(
    pixels: NDArray[Any], mask: NDArray[Any] | None, nodata: float | None
) -> Missing | None:
    """What of pixels ``(H, W, C)`` no one measured: by the mask, the value of nodata, NaN and infinity."""
    valid = np.ones((*pixels.shape[:2], 1), bool) if mask is None else (mask > 0)[:, :, None]
    if pixels.dtype.kind == "f":
        valid = valid & np.isfinite(pixels)
    reserved = None
    if nodata is not None and np.isfinite(nodata) and _holds(pixels.dtype, nodata):
        reserved = (nodata, nodata)
        valid = valid & (pixels != np.asarray(nodata).astype(pixels.dtype))
    return Missing.where(valid, reserved)


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        # The usual -3.4028235e38 is a rounded decimal, a little beyond float32.
        return abs(value) <= float(np.finfo(dtype).max) * (1 + 1e-6) or dtype.itemsize == 8
    return np.iinfo(dtype).min <= value <= np.iinfo(dtype).max and value == int(value)


def levels_of(
    dtype: np.dtype[Any],
    meta: GeoMetadata,
    parts: Iterable[tuple[NDArray[Any], Missing | None]],
    total: int,
    handling: Handling,
) -> Levels:
    """As set by the user, else the known scale of the product, else measured for each band of the whole file.

    Args:
        parts: the pixels of the file ``(H, W, C)``, piece by piece; only looked at where they are needed.
        total: pixels of the file.
    """
    limits = None if meta.bits is None else (0.0, float((1 << meta.bits) - 1))
    if handling.levels is not None:
        return replace(Levels.of_setting(dtype, handling.levels), limits=limits)
    if (reflectance := _reflectance(meta)) is not None:
        return replace(reflectance, limits=limits)
    valid = ((pixels, True if missing is None else missing.valid) for pixels, missing in parts)
    found = Levels.of_measured(dtype, valid, (0, 1), "of each band of the file", total)
    return replace(found, limits=limits)


def _reflectance(meta: GeoMetadata) -> Levels | None:
    """Reflectance from 0 to 1, where scale and offset of every band say that the values are one, as those of Sentinel-2
    (1e-4) and Landsat (2.75e-5, -0.2) do."""
    if not all(
        _LEAST_SCALE <= band.scale <= _MOST_SCALE and abs(band.offset) < 1 for band in meta.bands
    ):
        return None
    black = tuple(-band.offset / band.scale for band in meta.bands)
    white = tuple((1 - band.offset) / band.scale for band in meta.bands)
    return Levels(black, white, "reflectance 0 to 1, by scale and offset of each band")
