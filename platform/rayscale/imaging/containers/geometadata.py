"""Everything of a GeoTIFF but its pixels: read from an open dataset, scaled, put into another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.extras import load
from rayscale.imaging.containers.ifd import Ifd
from rayscale.imaging.containers.remarks import is_stale
from rayscale.imaging.missing import enlarge_mask
from rayscale.resampling import exact_scale

GDAL_METADATA = 42112
"""The TIFF tag of GDAL's XML."""

_MATRIX = 34264
"""The only tag that can hold the identity: a pixel scale turns the rows around."""

BAND_TAGS = "RAYSCALE_BAND"
"""The COG driver copies either the default domain of bands or all others, never both (GDAL 3.10), so the tags of bands
travel in a domain of their own."""

_COMPRESSIONS = {
    "LZW", "DEFLATE", "JPEG", "LERC", "LERC_DEFLATE", "LERC_ZSTD", "LZMA", "WEBP", "ZSTD",
}  # fmt: skip
"""What GDAL's COG driver writes as well; other compressed files become deflate."""

_PREDICTORS = {2: "STANDARD", 3: "FLOATING_POINT"}

# Domains that describe the file rather than the scene; GDAL makes them anew. No XML or JSON domain is kept either:
# rasterio cannot write those.
_OWN_DOMAINS = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "RPC", "rio_creation_kwds"}
GEO_KEYS, GEO_DOUBLES, GEO_TEXTS, EPOCH = 34735, 34736, 34737, 5120
"""Tags of GeoTIFF, and the key for the epoch of coordinates."""

_GEOLOCATION = "GEOLOCATION"
_RESOLUTION = ("TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION")

_BLOCKS = {34665: "EXIF", 34853: "GPS", 700: "XMP", 33723: "IPTC"}

Tags = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Band:
    """What GDAL knows of one band; ``value = stored * scale + offset`` in ``unit``. ``palette`` is its colour table, value to
    RGBA."""

    description: str | None
    unit: str | None
    scale: float
    offset: float
    colour: Any
    tags: Tags
    palette: dict[int, tuple[int, ...]] | None = None


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
            None without, and for a scene that is read by windows.
        compression, predictor, bits: of the file; ``bits`` where fewer are used than the type has.
        epoch: year for which coordinates in a moving reference system hold, None without.
        described: names of the blocks about the picture that GDAL cannot write: EXIF, GPS, XMP, IPTC.
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
    epoch: float | None = None
    described: tuple[str, ...] = ()
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
        if _GEOLOCATION in tags:
            tags[_GEOLOCATION] = _scale_geolocation(tags[_GEOLOCATION], r)
        mask = None if self.mask is None else enlarge_mask(self.mask, scale)
        return replace(self, transform=transform, gcps=gcps, rpcs=rpcs, tags=tags, mask=mask)

    def describe(self) -> dict[str, Any]:
        """Reference system, transform and nodata, and what is known of each band."""
        bands = [
            {
                key: value
                for key, value in (("name", band.description), ("unit", band.unit))
                if value
            }
            | (
                {}
                if (band.scale, band.offset) == (1, 0)
                else {"scale": band.scale, "offset": band.offset}
            )
            for band in self.bands
        ]
        facts = {
            "crs": None if self.crs is None else self.crs.to_string(),
            "transform": None if self.transform is None else list(self.transform)[:6],
            "gcps": len(self.gcps) or None,
            "rpcs": "yes" if self.rpcs is not None else None,
            # As text where it is not a number, which JSON has no word for.
            "nodata": "nan" if self.nodata != self.nodata else self.nodata,
            "bands": bands if any(bands) else None,
            "compression": self.compression,
        }
        return {key: value for key, value in facts.items() if value is not None}

    def without_loss(self) -> GeoMetadata:
        """The same for a file that keeps every value."""
        return replace(self, compression="DEFLATE") if self.compression == "JPEG" else self

    def of_deviations(self) -> GeoMetadata:
        """The same ground; NaN is nodata, so no mask is needed, and bands have no colour and no offset."""
        bands = tuple(
            replace(
                band,
                description=f"standard deviation of {band.description or f'band {number}'}",
                offset=0.0,
                colour=type(band.colour).undefined,
                palette=None,
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


def _scale_geolocation(tags: dict[str, str], r: float) -> dict[str, str]:
    """Offset and step from place to place of an array of coordinates, in pixels of the picture (RFC 4 of GDAL)."""
    half = 0.5 if tags.get("GEOREFERENCING_CONVENTION") == "PIXEL_CENTER" else 0.0
    scaled = dict(tags)
    for axis in ("PIXEL", "LINE"):
        offset, step = float(tags.get(f"{axis}_OFFSET", 0)), float(tags.get(f"{axis}_STEP", 1))
        scaled[f"{axis}_OFFSET"] = f"{(offset + half) * r - half:.15g}"
        scaled[f"{axis}_STEP"] = f"{step * r:.15g}"
    return scaled


def metadata_of(dataset: Any, ifd: Ifd, indexes: Sequence[int], alpha: int | None) -> GeoMetadata:
    """The metadata of an open dataset, whose first directory is ``ifd``, without the mask.

    Args:
        indexes: bands of the pixels, counted from 1. alpha: index of the alpha band, counted from 0.
    """
    gcps, gcps_crs = dataset.gcps
    bands = tuple(
        Band(
            dataset.descriptions[index - 1],
            dataset.units[index - 1],
            dataset.scales[index - 1],
            dataset.offsets[index - 1],
            dataset.colorinterp[index - 1],
            _tags(dataset, index),
            _palette(dataset, index),
        )
        for index in indexes
    )
    bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    compression = dataset.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "NONE")
    compression = compression.removeprefix("YCbCr ")  # JPEG
    meta = GeoMetadata(
        transform=_transform(dataset, ifd),
        crs=dataset.crs,
        gcps=tuple(gcps),
        gcps_crs=gcps_crs,
        rpcs=dataset.rpcs,
        nodata=dataset.nodata,
        bands=bands,
        tags=_tags(dataset, 0),
        mask=None,
        alpha=alpha,
        compression=compression if compression in {"NONE", *_COMPRESSIONS} else "DEFLATE",
        predictor=_PREDICTORS.get(ifd.integer(317, 1), "NO"),
        epoch=_epoch(ifd),
        described=tuple(name for tag, name in _BLOCKS.items() if tag in ifd),
        bits=int(bits) if bits and dataset.dtypes[0] == "uint16" else None,
    )
    return meta if meta.nodata is None else meta.without_loss()  # which blurs the value of nodata


def _epoch(ifd: Ifd) -> float | None:
    """The key for the epoch of coordinates: four integers per key (number, tag of its value, count, index in that tag)."""
    keys = ifd.numbers(GEO_KEYS)
    for at in range(4, len(keys) - 3, 4):
        number, tag, _, index = keys[at : at + 4]
        if number == EPOCH and tag == GEO_DOUBLES:
            values = np.frombuffer(ifd.raw(tag) or b"", f"{ifd.order}f8")
            return float(values[index]) if index < len(values) else None
    return None


def _transform(dataset: Any, ifd: Ifd) -> Any:
    """The transform of the file, None without; rasterio says the identity for both, which a file may have as well."""
    found = dataset.transform
    return found if found != type(found).identity() or _MATRIX in ifd else None


def _palette(dataset: Any, index: int) -> dict[int, tuple[int, ...]] | None:
    try:
        return dict(dataset.colormap(index))
    except ValueError:
        return None


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
        kept = {
            key: value
            for key, value in found.items()
            if not key.startswith("STATISTICS_")
            and not (key == "TIFFTAG_IMAGEDESCRIPTION" and is_stale(value))
        }
        if kept:
            tags[domain] = kept
    return tags


def placement(meta: GeoMetadata) -> dict[str, Any]:
    """What a dataset has to be created with."""
    placed: dict[str, Any] = {"crs": meta.crs}
    if meta.transform is not None:
        placed["transform"] = meta.transform
    return placed


def places(meta: GeoMetadata, count: int) -> list[int]:
    """The bands of a dataset of ``count``, counted from 1, that hold pixels: all but alpha."""
    return [index for index in range(1, count + 1) if index - 1 != meta.alpha]


def put_metadata(scene: Any, meta: GeoMetadata) -> None:
    """Put everything but pixels and mask into a dataset made with :func:`placement`."""
    colour, crs = (load(f"rasterio.{name}", "geo") for name in ("enums", "crs"))
    used = places(meta, scene.count)
    colours = [colour.ColorInterp.alpha] * scene.count
    for place, band in zip(used, meta.bands, strict=True):
        colours[place - 1] = band.colour
        if band.description:
            scene.set_band_description(place, band.description)
        if band.unit:
            scene.set_band_unit(place, band.unit)
        if band.palette is not None:
            scene.write_colormap(place, band.palette)
        for domain, values in band.tags.items():
            scene.update_tags(place, ns=domain or BAND_TAGS, **values)
    scene.colorinterp = colours
    _put_units(scene, meta.bands, used)
    if meta.nodata is not None:
        scene.nodata = meta.nodata
    if meta.gcps:
        scene.gcps = (list(meta.gcps), meta.gcps_crs or crs.CRS())
    if meta.rpcs is not None:
        scene.rpcs = meta.rpcs
    for domain, values in meta.tags.items():
        scene.update_tags(ns=domain or None, **values)


def _put_units(scene: Any, bands: Sequence[Band], places: list[int]) -> None:
    """Scale and offset of each band; files without any stay without."""
    scales, offsets = [1.0] * scene.count, [0.0] * scene.count
    for place, band in zip(places, bands, strict=True):
        scales[place - 1], offsets[place - 1] = band.scale, band.offset
    if set(scales) != {1.0}:
        scene.scales = scales
    if set(offsets) != {0.0}:
        scene.offsets = offsets
