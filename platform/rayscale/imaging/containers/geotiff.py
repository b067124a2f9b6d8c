"""GeoTIFF through GDAL: any bands of any real type, with everything that places them on the ground.

Also the reader of TIFFs that hold more than a picture: signed and floating values, nodata, masks. Sizes are
checked in the tag directory before GDAL opens the bytes, and GDAL may use its GTiff driver only: bytes named .tif can be
a VRT, which can read any file. Written as Cloud-Optimised GeoTIFF by GDAL's own COG driver.

A scene is read whole here. Reading and writing window by window, for scenes larger than memory, belongs beside
``read`` and ``write``: ``Levels`` and ``GeoMetadata`` are facts of the whole scene, so windows can share them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError, RayscaleError, UnsupportedError
from rayscale.imaging.containers.ifd import MASK, Ifd
from rayscale.imaging.extras import load
from rayscale.imaging.image import Header, Image
from rayscale.imaging.levels import PICTURE_TYPES, PIXEL_TYPES, Levels
from rayscale.imaging.limits import check_size
from rayscale.imaging.missing import Missing
from rayscale.imaging.provenance import Provenance
from rayscale.resampling import exact_scale, nearest

_GEOREFERENCE = (33550, 33922, 34264, 34735, 50844)  # scale, tie points, matrix, keys, RPC
_GDAL_METADATA, _NODATA = 42112, 42113
_SIGNED, _FLOAT = 2, 3

MAX_BANDS = 4096
"""More than any instrument has; GDAL keeps an object for each."""

MAX_SIDE = 1 << 30

# GDAL never looks at other files, nor at the network, and keeps few blocks in memory (MB).
_GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_CACHEMAX": 64,
    "GDAL_TIFF_INTERNAL_MASK": "YES",
    "PROJ_NETWORK": "OFF",
}

# Tag 259 to what GDAL's COG driver calls it; anything else is written as deflate.
_COMPRESSIONS = {
    1: "NONE", 5: "LZW", 8: "DEFLATE", 32946: "DEFLATE", 7: "JPEG", 34887: "LERC", 34925: "LZMA",
    50000: "ZSTD",
}  # fmt: skip
_PREDICTORS = {2: "STANDARD", 3: "FLOATING_POINT"}
_WITH_PREDICTOR = {"LZW", "DEFLATE", "ZSTD"}
_JPEG_QUALITY = 95

# Domains that describe the file rather than the scene; GDAL makes them anew.
_OWN_DOMAINS = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "RPC", "rio_creation_kwds"}
# The COG driver copies either the default domain of bands or all others, never both (GDAL 3.10), so the tags of bands
# travel in a domain of their own. No XML or JSON domain either: rasterio cannot write those.
_BAND_TAGS = "RAYSCALE_BAND"
_RESOLUTION = ("TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION")

Tags = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Band:
    """What GDAL knows of one band; ``value = stored * scale + offset`` in ``unit``."""

    description: str | None
    unit: str | None
    scale: float
    offset: float
    colour: Any
    tags: Tags


@dataclass(frozen=True, eq=False)
class GeoMetadata:
    """Everything of a GeoTIFF but its pixels.

    Attributes:
        transform: affine map from (column, row) of pixel corners to the ground; None without.
        crs: coordinate reference system, None without.
        gcps: ground control points, and their system in ``gcps_crs``. rpcs: rational polynomial coefficients.
        nodata: the value of missing pixels, None without.
        bands: one per channel of the pixels; the alpha band is not among them.
        tags: domain to tags of the dataset, "" for the default domain.
        mask: ``(H, W)`` validity as stored: the alpha band when ``alpha`` is its index, otherwise an internal mask.
        compression, predictor, bits: of the file; ``bits`` where fewer are used than the type has.
    """

    transform: Any
    crs: Any
    gcps: tuple[Any, ...]
    gcps_crs: Any
    rpcs: Any
    nodata: float | None
    bands: tuple[Band, ...]
    tags: Tags
    mask: NDArray[Any] | None
    alpha: int | None
    compression: str
    predictor: str
    bits: int | None = None
    containers: tuple[str, ...] = ("geotiff",)

    def scaled(self, scale: float) -> GeoMetadata:
        """The same ground under ``scale`` times as many pixels: corners stay where they are.

        RPC offsets count from the centre of the first pixel, so they move by half a pixel of each grid.
        """
        factor = exact_scale(scale)
        r = float(factor)
        transform, rpcs = self.transform, self.rpcs
        if transform is not None:
            transform = transform @ type(transform).scale(float(1 / factor))
        gcps = tuple(type(p)(p.row * r, p.col * r, p.x, p.y, p.z, p.id, p.info) for p in self.gcps)
        if rpcs is not None:
            moved = rpcs.to_dict()
            for axis in ("line", "samp"):
                moved[f"{axis}_off"] = (moved[f"{axis}_off"] + 0.5) * r - 0.5
                moved[f"{axis}_scale"] = moved[f"{axis}_scale"] * r
            rpcs = type(rpcs)(**moved)
        tags = {domain: dict(values) for domain, values in self.tags.items()}
        for name in _RESOLUTION:
            if name in tags.get("", {}):
                tags[""][name] = f"{float(tags[''][name]) * r:.12g}"
        mask = None if self.mask is None else nearest(self.mask, scale)
        return replace(self, transform=transform, gcps=gcps, rpcs=rpcs, tags=tags, mask=mask)

    def of_deviations(self) -> GeoMetadata:
        """The same ground; NaN is nodata, so no mask is needed, and bands have no colour and no offset."""
        bands = tuple(
            replace(
                band,
                description=f"standard deviation of {band.description or f'band {number}'}",
                offset=0.0,
                colour=type(band.colour).undefined,
            )
            for number, band in enumerate(self.bands, 1)
        )
        predictor = self.predictor if self.predictor == "NO" else "FLOATING_POINT"
        return replace(
            self,
            bands=bands,
            nodata=math.nan,
            mask=None,
            alpha=None,
            predictor=predictor,
            bits=None,
        )


def claims(data: bytes) -> bool:
    """Whether these bytes of a TIFF hold more than a picture, judged by the tags of the first directory."""
    try:
        ifd = Ifd.first(data)
        formats = ifd.numbers(339)
        return (
            any(tag in ifd for tag in (*_GEOREFERENCE, _GDAL_METADATA, _NODATA))
            or _SIGNED in formats
            or _FLOAT in formats
            or any(kind & MASK for kind in ifd.following_kinds())
        )
    except InputError:
        return False  # the plain reader says what is wrong


def probe(data: bytes) -> Header:
    """Header of a GeoTIFF, from its first directory; GDAL is not asked."""
    return _header(Ifd.first(data))


def read(data: bytes, max_pixels: int) -> Image:
    """Decode all bands of the first page."""
    ifd = Ifd.first(data)
    header = _header(ifd)
    check_size(header, max_pixels)
    if header.pages > 1:
        raise UnsupportedError(
            f"GeoTIFF is a stack of {header.pages} pages; only single pages are handled: split it"
        )
    tile = Header("geotiff", ifd.integer(322, 1), ifd.integer(323, 1), header.channels, header.bits)
    check_size(tile, max_pixels)
    rasterio = _rasterio()
    with rasterio.Env(**_GDAL), rasterio.MemoryFile(data, filename="scene.tif") as file:
        try:
            with file.open(driver="GTiff") as dataset:
                return _image(dataset, ifd)
        except RayscaleError:
            raise
        except rasterio.errors.RasterioError as error:
            # Rasterio's own message points at its cause, which alone tells what happened.
            raise InputError(f"GEOTIFF is damaged: {error.__cause__ or error}") from error


def write(image: Image, provenance: Provenance | None) -> bytes:
    """Encode as Cloud-Optimised GeoTIFF with overviews, in the compression of the source."""
    meta = image.metadata
    if not isinstance(meta, GeoMetadata):
        raise UnsupportedError("a GeoTIFF is made from a GeoTIFF only; write this image as TIFF")
    rasterio = _rasterio()
    alpha = meta.mask if meta.alpha is not None else None
    count = image.channels + (alpha is not None)
    options: dict[str, Any] = {} if meta.transform is None else {"transform": meta.transform}
    with (
        rasterio.Env(**_GDAL),
        rasterio.MemoryFile(ext=".tif") as file,
        rasterio.open(
            "scene", "w", driver="MEM", width=image.width, height=image.height, count=count,
            dtype=image.pixels.dtype.name, crs=meta.crs, **options,
        ) as scene,
    ):  # fmt: skip
        _fill(scene, image.pixels, meta, alpha)
        if provenance is not None:
            scene.update_tags(RAYSCALE=provenance.to_json())
        rasterio.shutil.copy(scene, file.name, driver="COG", **_creation(image, meta))
        return _with_band_tags(bytearray(file.read()))


def _rasterio() -> Any:
    """The library, with the modules used here; not being georeferenced is no reason for a warning."""
    rasterio = load("rasterio", "geo")
    for name in ("crs", "enums", "errors", "io", "shutil"):
        load(f"rasterio.{name}", "geo")
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


def _header(ifd: Ifd) -> Header:
    samples, bits = ifd.integer(277, 1), max(ifd.numbers(258) or [1])
    formats = set(ifd.numbers(339)) or {1}
    if formats - {1, _SIGNED, _FLOAT, 4} or len(formats) > 1:
        raise UnsupportedError(
            f"GeoTIFF pixels are of sample format {', '.join(map(str, sorted(formats)))}; only real numbers of one "
            "type are handled: split or convert it"
        )
    if ifd.integer(262, 1) == 3:
        raise UnsupportedError(
            "GeoTIFF has a palette: its values are classes, and between two classes there is no third; "
            "enlarge it by nearest neighbour (gdalwarp -r near)"
        )
    if bits < 8:
        raise UnsupportedError(
            f"GeoTIFF pixels have {bits} bit; that is a mask or a class, no measurement"
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
        ifd.full_pages(),
        alpha,
    )


def _image(dataset: Any, ifd: Ifd) -> Image:
    enums = _rasterio().enums
    dtype = np.dtype(dataset.dtypes[0])
    if dtype not in PIXEL_TYPES:
        raise UnsupportedError(f"GeoTIFF pixels are {dtype}; convert it to float32")
    colours = dataset.colorinterp
    thematic = any(dataset.tags(index).get("LAYER_TYPE") == "thematic" for index in dataset.indexes)
    if thematic or enums.ColorInterp.palette in colours:
        raise UnsupportedError(
            "GeoTIFF holds classes (a palette or a thematic layer), and between two classes there is no third; "
            "enlarge it by nearest neighbour (gdalwarp -r near)"
        )
    alpha = colours.index(enums.ColorInterp.alpha) if enums.ColorInterp.alpha in colours else None
    indexes = [index for index in dataset.indexes if index - 1 != alpha]
    if not indexes:
        raise UnsupportedError("GeoTIFF has an alpha band only: nothing to upscale")
    pixels = np.ascontiguousarray(np.moveaxis(dataset.read(indexes), 0, 2))
    mask = None
    if alpha is not None:
        mask = dataset.read(alpha + 1)
    elif enums.MaskFlags.per_dataset in dataset.mask_flag_enums[0]:
        mask = dataset.dataset_mask()
    bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    meta = _metadata(dataset, ifd, indexes, mask, alpha)
    if bits and dtype == np.uint16:
        meta = replace(meta, bits=int(bits))
    missing = _missing(pixels, mask, meta.nodata)
    return Image(
        pixels=pixels,
        container="geotiff",
        levels=_levels(pixels, missing, meta.bits),
        missing=missing,
        metadata=meta,
    )


def _metadata(
    dataset: Any, ifd: Ifd, indexes: list[int], mask: NDArray[Any] | None, alpha: int | None
) -> GeoMetadata:
    gcps, gcps_crs = dataset.gcps
    rotated = dataset.transform
    bands = tuple(
        Band(
            dataset.descriptions[index - 1],
            dataset.units[index - 1],
            dataset.scales[index - 1],
            dataset.offsets[index - 1],
            dataset.colorinterp[index - 1],
            _tags(dataset, index),
        )
        for index in indexes
    )
    return GeoMetadata(
        transform=None if rotated == type(rotated).identity() else rotated,
        crs=dataset.crs,
        gcps=tuple(gcps),
        gcps_crs=gcps_crs,
        rpcs=dataset.rpcs,
        nodata=dataset.nodata,
        bands=bands,
        tags=_tags(dataset, 0),
        mask=mask,
        alpha=alpha,
        compression=_COMPRESSIONS.get(ifd.integer(259, 1), "DEFLATE"),
        predictor=_PREDICTORS.get(ifd.integer(317, 1), "NO"),
    )


def _tags(dataset: Any, index: int) -> Tags:
    """All domains of the dataset (0) or a band, without what other pixels would make untrue."""
    domains = [
        "",
        *(
            name
            for name in dataset.tag_namespaces(index)
            if name not in _OWN_DOMAINS and not name.startswith(("xml:", "json:"))
        ),
    ]
    tags: Tags = {}
    for domain in domains:
        found = dataset.tags(index, ns=domain or None)
        kept = {key: value for key, value in found.items() if not key.startswith("STATISTICS_")}
        if kept:
            tags[domain] = kept
    return tags


def _missing(
    pixels: NDArray[Any], mask: NDArray[Any] | None, nodata: float | None
) -> Missing | None:
    valid = np.ones((*pixels.shape[:2], 1), bool) if mask is None else (mask > 0)[:, :, None]
    if pixels.dtype.kind == "f":
        valid = valid & np.isfinite(pixels)
    mark = None
    if nodata is not None and np.isfinite(nodata) and _holds(pixels.dtype, nodata):
        mark = nodata
        valid = valid & (pixels != np.asarray(nodata).astype(pixels.dtype))
    return Missing.where(valid, mark)


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        # The usual -3.4028235e38 is a rounded decimal, a little beyond float32.
        return abs(value) <= float(np.finfo(dtype).max) * (1 + 1e-6) or dtype.itemsize == 8
    return np.iinfo(dtype).min <= value <= np.iinfo(dtype).max and value == int(value)


def _levels(pixels: NDArray[Any], missing: Missing | None, bits: int | None) -> Levels:
    """The range of the type where it is black to white (tiles of a mosaic agree); else that of each band."""
    if pixels.dtype in PICTURE_TYPES:
        return Levels.of_type(pixels.dtype, bits)
    valid = True if missing is None else np.broadcast_to(missing.valid, pixels.shape)
    kind = np.finfo if pixels.dtype.kind == "f" else np.iinfo
    smallest, largest = kind(pixels.dtype).min, kind(pixels.dtype).max
    black = np.min(pixels, axis=(0, 1), where=valid, initial=largest)
    white = np.max(pixels, axis=(0, 1), where=valid, initial=smallest)
    empty = black > white
    black[empty], white[empty] = 0, 1
    return Levels.of_data(black, white, "smallest to largest value of each band of the file")


def _fill(scene: Any, pixels: NDArray[Any], meta: GeoMetadata, alpha: NDArray[Any] | None) -> None:
    """Put pixels, mask and metadata into an open dataset."""
    rasterio = _rasterio()
    enums = rasterio.enums
    places = [i for i in range(1, scene.count + 1) if alpha is None or i - 1 != meta.alpha]
    colours = [enums.ColorInterp.alpha] * scene.count
    for place, band, plane in zip(places, meta.bands, np.moveaxis(pixels, 2, 0), strict=True):
        scene.write(plane, place)
        colours[place - 1] = band.colour
        if band.description:
            scene.set_band_description(place, band.description)
        if band.unit:
            scene.set_band_unit(place, band.unit)
        for domain, values in band.tags.items():
            scene.update_tags(place, ns=domain or _BAND_TAGS, **values)
    if alpha is not None and meta.alpha is not None:
        scene.write(alpha, meta.alpha + 1)
    elif meta.mask is not None:
        scene.write_mask(meta.mask)
    scene.colorinterp = colours
    _fill_units(scene, meta.bands, places)
    if meta.nodata is not None:
        scene.nodata = meta.nodata
    if meta.gcps:
        scene.gcps = (list(meta.gcps), meta.gcps_crs or rasterio.crs.CRS())
    if meta.rpcs is not None:
        scene.rpcs = meta.rpcs
    for domain, values in meta.tags.items():
        scene.update_tags(ns=domain or None, **values)


def _fill_units(scene: Any, bands: Sequence[Band], places: list[int]) -> None:
    """Scale and offset of each band; files without any stay without."""
    scales, offsets = [1.0] * scene.count, [0.0] * scene.count
    for place, band in zip(places, bands, strict=True):
        scales[place - 1], offsets[place - 1] = band.scale, band.offset
    if set(scales) != {1.0}:
        scene.scales = scales
    if set(offsets) != {0.0}:
        scene.offsets = offsets


def _with_band_tags(data: bytearray) -> bytes:
    """Return the tags of bands from ``_BAND_TAGS`` to the default domain, by blanking an attribute in the XML."""
    ifd = Ifd.first(bytes(data))
    xml = ifd.raw(_GDAL_METADATA)
    if xml is not None:
        attribute = f' domain="{_BAND_TAGS}"'.encode()
        start = ifd.fields[_GDAL_METADATA].position
        data[start : start + len(xml)] = xml.replace(attribute, b" " * len(attribute))
    return bytes(data)


def _creation(image: Image, meta: GeoMetadata) -> dict[str, Any]:
    """Creation options of GDAL's COG driver."""
    compression = meta.compression
    lossy = compression == "JPEG"
    if lossy and (image.bits > 8 or image.channels not in (1, 3) or meta.alpha is not None):
        compression, lossy = "DEFLATE", False
    # Tiles are stored whole, so those of a small scene shrink with it; 128 is the least that GDAL takes.
    side = 1 << (max(image.width, image.height) - 1).bit_length()
    options = {
        "COMPRESS": compression,
        "COPY_SRC_MDD": "YES",
        "BLOCKSIZE": str(min(512, max(128, side))),
        "BIGTIFF": "IF_SAFER",
        "OVERVIEW_RESAMPLING": "AVERAGE",
        "NUM_THREADS": "1",
    }
    if lossy:
        options["QUALITY"] = str(_JPEG_QUALITY)
    if compression in _WITH_PREDICTOR:
        options["PREDICTOR"] = meta.predictor
    if meta.bits is not None:
        options["NBITS"] = str(meta.bits)
    return options
