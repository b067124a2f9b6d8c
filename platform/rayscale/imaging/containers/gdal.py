"""GDAL through rasterio: what it may do, what it raises, and the making of Cloud-Optimised GeoTIFFs."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from os import SEEK_END
from pathlib import Path
from typing import Any

import numpy as np

from rayscale.errors import InputError, RayscaleError, StorageError
from rayscale.extras import load
from rayscale.imaging.containers.geometadata import (
    BAND_TAGS,
    EPOCH,
    GDAL_METADATA,
    GEO_DOUBLES,
    GEO_KEYS,
    GEO_TEXTS,
    GeoMetadata,
)
from rayscale.imaging.containers.ifd import Ifd

CACHE_MIB = 128
"""Blocks that GDAL keeps in memory, of all open files; it heeds the value of its first use in a process."""

# GDAL never looks at other files, nor at the network.
_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_CACHEMAX": CACHE_MIB,
    "GDAL_TIFF_INTERNAL_MASK": "YES",
    "PROJ_NETWORK": "OFF",
}

_WITH_PREDICTOR = {"LZW", "DEFLATE", "ZSTD"}
_QUALITY = {"JPEG": 95, "WEBP": 100}
"""That of WebP means lossless."""

_BLOCK = 512


def library() -> Any:
    """Rasterio, with the modules used here; not being georeferenced is not a reason for a warning."""
    rasterio = load("rasterio", "geo")
    for name in ("crs", "enums", "errors", "io", "shutil", "windows"):
        load(f"rasterio.{name}", "geo")
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


@contextmanager
def reading() -> Iterator[Any]:
    """Rasterio under the options above; InputError when what is read is damaged."""
    rasterio = library()
    try:
        with rasterio.Env(**_OPTIONS):
            yield rasterio
    except (RayscaleError, MemoryError):
        raise
    except Exception as error:  # of many classes, not all of them rasterio's own
        raise InputError(f"GEOTIFF is damaged: {_cause(error)}") from error


@contextmanager
def writing(target: str) -> Iterator[Any]:
    """The same for what becomes ``target``: StorageError when GDAL cannot write it."""
    rasterio = library()
    try:
        with rasterio.Env(**_OPTIONS):
            yield rasterio
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError, SystemError) as error:
        # SystemError is what rasterio raises when GDAL fails without a word, as on a disk that is full.
        raise StorageError(f"{target} cannot be written: {_cause(error)}") from error


def write_cog(dataset: Any, path: str, meta: GeoMetadata, *, labels: bool = False) -> None:
    """Copy ``dataset`` to ``path`` as Cloud-Optimised GeoTIFF with overviews, block by block.

    With ``labels`` overviews take pixels as they are: the average of two classes would be a third.

    The tags of its bands still lie in a domain of their own there; see :func:`return_band_tags`.
    """
    options = _creation(dataset, meta)
    if labels:
        options["OVERVIEW_RESAMPLING"] = "NEAREST"
    library().shutil.copy(dataset, path, driver="COG", **options)


def return_band_tags(data: bytearray | mmap) -> None:
    """Return the tags of bands from their own domain to the default one, by blanking an attribute in the XML.

    ``data`` are the bytes of the file, changed in place.
    """
    ifd = Ifd.first(bytes(data) if isinstance(data, bytearray) else data)
    xml = ifd.raw(GDAL_METADATA)
    if xml is not None:
        attribute = f' domain="{BAND_TAGS}"'.encode()
        start = ifd.fields[GDAL_METADATA].position
        data[start : start + len(xml)] = xml.replace(attribute, b" " * len(attribute))


def return_band_tags_of(path: Path) -> None:
    """The same for a file of any size."""
    with path.open("r+b") as file, mmap(file.fileno(), 0) as data:
        return_band_tags(data)


def put_epoch(data: bytearray, meta: GeoMetadata) -> None:
    """Add the epoch of the coordinates to a GeoTIFF that GDAL wrote, for which rasterio has no word."""
    edits, tail = _epoch_edits(bytes(data), meta.epoch)
    for place, values in edits:
        data[place : place + len(values)] = values
    data += tail


def put_epoch_into(path: Path, meta: GeoMetadata) -> None:
    """The same for a file of any size."""
    with path.open("r+b") as file:
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            edits, tail = _epoch_edits(data, meta.epoch)
        for place, values in edits:
            file.seek(place)
            file.write(values)
        file.seek(0, SEEK_END)
        file.write(tail)


def _epoch_edits(data: bytes | mmap, epoch: float | None) -> tuple[list[tuple[int, bytes]], bytes]:
    """What to overwrite where in a GeoTIFF, and what to append.

    A directory cannot grow in its place, so its entries of keys and doubles are pointed at longer copies. Where no key needs a double,
    the texts make room: they name reference systems that the keys give by their numbers.
    """
    ifd = Ifd.first(data)
    if epoch is None or GEO_KEYS not in ifd or not {GEO_DOUBLES, GEO_TEXTS} & ifd.fields.keys():
        return [], b""
    head, *keys = np.reshape(ifd.numbers(GEO_KEYS), (-1, 4)).tolist()
    doubles, room = ifd.raw(GEO_DOUBLES), GEO_DOUBLES
    if doubles is None:
        doubles, room = b"", GEO_TEXTS
        keys = [key for key in keys if key[1] != GEO_TEXTS]
    keys.append([EPOCH, GEO_DOUBLES, 1, len(doubles) // 8])
    doubles += struct.pack(f"{ifd.order}d", epoch)
    table = np.array([[*head[:3], len(keys)], *keys], f"{ifd.order}u2").tobytes()
    size, layout, number = (20, "HHQ", "Q") if ifd.big else (12, "HHI", "I")
    start = ifd.offset + (8 if ifd.big else 2)
    tags = [
        struct.unpack_from(f"{ifd.order}H", data, start + size * at)[0]
        for at in range(len(ifd.fields))
    ]
    tail = bytes(-len(data) % 8)
    edits = []
    for place, tag, kind, count, values in (
        (room, GEO_DOUBLES, 12, len(doubles) // 8, doubles),
        (GEO_KEYS, GEO_KEYS, 3, len(table) // 2, table),
    ):
        entry = struct.pack(f"{ifd.order}{layout}", tag, kind, count)
        if len(values) <= struct.calcsize(number):
            entry += values
        else:
            entry += struct.pack(f"{ifd.order}{number}", len(data) + len(tail))
            tail += values
        edits.append((start + size * tags.index(place), entry))
    return edits, tail


def _cause(error: Exception) -> object:
    """Rasterio's own message points at its cause, which alone tells what happened."""
    return error.__cause__ or str(error) or type(error).__name__


def _creation(dataset: Any, meta: GeoMetadata) -> dict[str, Any]:
    """Creation options of GDAL's COG driver."""
    compression = meta.compression
    pictures = {"JPEG": (1, 3), "WEBP": (3,)}.get(compression)
    if pictures and (
        dataset.dtypes[0] != "uint8" or dataset.count not in pictures or meta.alpha is not None
    ):
        compression = "DEFLATE"
    # Tiles are stored whole, so those of a small scene shrink with it; 128 is the least that GDAL takes.
    side = 1 << (max(dataset.width, dataset.height) - 1).bit_length()
    options = {
        "COMPRESS": compression,
        "COPY_SRC_MDD": "YES",
        "BLOCKSIZE": str(min(_BLOCK, max(128, side))),
        "BIGTIFF": "IF_SAFER",
        "OVERVIEW_RESAMPLING": "AVERAGE",
        "NUM_THREADS": "1",
    }
    if compression in _QUALITY:
        options["QUALITY"] = str(_QUALITY[compression])
    if compression in _WITH_PREDICTOR:
        options["PREDICTOR"] = meta.predictor
    if meta.bits is not None:
        options["NBITS"] = str(meta.bits)
    return options
