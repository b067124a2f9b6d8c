"""GDAL through rasterio: what it may do, what it raises, and the making of Cloud-Optimised GeoTIFFs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from typing import Any

from rayscale.errors import InputError, RayscaleError, StorageError
from rayscale.imaging.containers.geometadata import BAND_TAGS, GDAL_METADATA, GeoMetadata
from rayscale.imaging.containers.ifd import Ifd
from rayscale.imaging.extras import load

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
    """Rasterio, with the modules used here; not being georeferenced is no reason for a warning."""
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
