"""Files beside a raster that GDAL reads together with it: here a file is taken as whole, and what it lacks is told or refused.

Refused is what would make wrong pixels (masks, nodata, classes that only another file tells); place and meaning of values are noted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from mmap import ACCESS_READ, mmap
from pathlib import Path
from xml.etree import ElementTree

from rayscale.errors import InputError, UnsupportedError
from rayscale.imaging.containers.ifd import Ifd
from rayscale.imaging.limits import METADATA_BYTES

MASK = ".msk"
"""What GDAL appends to the name of a raster for that of its mask."""

PAM = ".aux.xml"
"""The same for what its format has no place for (persistent auxiliary metadata)."""

WORLD_FILES = (".tfw", ".tifw", ".tiffw", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw", ".wld")
"""What may stand in place of the ending of a raster for the six numbers of its transform."""

_SYSTEMS = (".prj",)
_RPCS = ("_RPC.TXT", "_rpc.txt", ".RPB", ".rpb")
_PRODUCT = (".IMD", ".imd")
_APPENDED = (MASK, PAM, ".ovr")
_REPLACING = (*WORLD_FILES, *(name.upper() for name in WORLD_FILES), *_SYSTEMS, ".PRJ", *_RPCS, *_PRODUCT)  # fmt: skip
_RASTERS = (".tif", ".tiff", ".TIF", ".TIFF", ".png", ".PNG", ".jpg", ".JPG", ".jpeg", ".JPEG", ".webp")  # fmt: skip

# Tags by which a TIFF itself tells its place, its reference system, its RPCs and its nodata.
_PLACE, _SYSTEM, _RPC, _NODATA = (33550, 33922, 34264), 34735, 50844, 42113


def masked_apart(name: str) -> UnsupportedError:
    """The error of a raster with a mask beside it, without which pixels would pass for measured."""
    return UnsupportedError(
        f"the mask of {name} lies in {name}{MASK}, which is not read; make one file of both: gdal_translate --config "
        f"GDAL_TIFF_INTERNAL_MASK YES {name} whole.tif"
    )


def is_raster(name: str) -> bool:
    """Whether a file may have sidecars, judged by its ending."""
    return name.endswith(_RASTERS)


def names_beside(name: str, exists: Callable[[str], bool]) -> tuple[str, ...]:
    """The sidecars of a raster among the names that exist; names may have folders."""
    if not is_raster(name):
        return ()
    stem = name[: name.rindex(".")]
    possible = (*(name + end for end in _APPENDED), *(stem + end for end in _REPLACING))
    return tuple(each for each in possible if exists(each))


def is_sidecar(name: str, exists: Callable[[str], bool]) -> bool:
    """Whether a file lies beside a raster to tell of it."""
    for end in _APPENDED:
        if name.endswith(end) and exists(name.removesuffix(end)):
            return True
    ends = (end for end in _REPLACING if name.endswith(end))
    return any(exists(name.removesuffix(end) + raster) for end in ends for raster in _RASTERS)


def tags_of(data: bytes | mmap) -> Collection[int]:
    """The tags of a TIFF; none of any other file."""
    try:
        return Ifd.first(data).fields
    except InputError:
        return ()


def tags_of_file(path: Path) -> Collection[int]:
    """The same for a file of any size."""
    if not path.stat().st_size:
        return ()
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return tags_of(data)


def heed(
    name: str,
    beside: Iterable[str],
    tags: Collection[int],
    read: Callable[[str], bytes],
    *,
    repeats: bool = False,
) -> tuple[str, ...]:
    """Notes of what is lost of a raster with its sidecars.

    Args:
        name: of the raster. beside: its sidecars, as in :func:`names_beside`. tags: its own, as in :func:`tags_of`.
        read: the bytes of a sidecar. repeats: its pixels are repeated whatever they are, so that classes are welcome.

    Raises:
        UnsupportedError: pixels would be taken for what they are not.
    """
    placed = any(tag in tags for tag in _PLACE)
    lost: dict[str, list[str]] = {}
    for each in beside:
        if each.endswith(MASK):
            raise masked_apart(_last(name))
        if each.lower().endswith(WORLD_FILES):
            known = {"place": placed}
        elif each.lower().endswith(_SYSTEMS):
            known = {"reference system": _SYSTEM in tags}
        elif each.endswith(_RPCS):
            known = {"RPC": _RPC in tags}
        elif each.endswith(_PRODUCT):
            known = {"metadata of the product": False}
        elif each.endswith(PAM):
            known = _heed_pam(_last(name), _last(each), tags, read(each), repeats)
        else:
            known = {}
        for what, is_known in known.items():
            if not is_known:
                lost.setdefault(_last(each), []).append(what)
    return tuple(
        f"{file} is not read, so the result is without its {', '.join(what)}; gdal_translate {_last(name)} whole.tif makes "
        "one file of both"
        for file, what in lost.items()
    )


def _heed_pam(
    name: str, file: str, tags: Collection[int], data: bytes, repeats: bool
) -> dict[str, bool]:
    """What GDAL's own sidecar tells, and whether the raster tells it as well. Statistics and the like are not a loss."""
    try:
        if len(data) > METADATA_BYTES or b"<!" in data.replace(b"<!--", b"").replace(
            b"<![CDATA[", b""
        ):
            raise ValueError("too large, or with a document type")
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError):
        return {"content, which is damaged": False}
    if not repeats and (_classes(root)):
        raise UnsupportedError(
            f"{file} says that {name} holds classes ({_classes(root)}), which must not be interpolated; enlarge it by "
            "nearest neighbour with the model nearest"
        )
    nodata = [element.text for element in root.iter("NoDataValue") if (element.text or "").strip()]
    if nodata and _NODATA not in tags:
        raise UnsupportedError(
            f"the nodata value {(nodata[0] or '').strip()[:40]} of {name} stands in {file}, which is not read, so missing pixels "
            f"would pass for measured; make one file of both: gdal_translate {name} whole.tif"
        )
    placed = any(tag in tags for tag in _PLACE)
    found = {
        "reference system": (("SRS",), _SYSTEM in tags),
        "place": (("GeoTransform", "GCPList"), placed),
        "scale and offset of values": (("Scale", "Offset"), False),
        "units": (("UnitType",), False),
        "names of bands": (("Description",), False),
    }
    known = {
        what: is_known
        for what, (names, is_known) in found.items()
        if any(next(root.iter(each), None) is not None for each in names)
    }
    if any(part.get("domain") == "RPC" for part in root.iter("Metadata")):
        known["RPC"] = _RPC in tags
    return known


def _classes(root: ElementTree.Element) -> str:
    """How a sidecar says that values are classes; "" when it does not."""
    if any((name.text or "").strip() for name in root.iter("Category")):
        return "category names"
    if next(root.iter("ColorTable"), None) is not None:
        return "a palette"
    tables = list(root.iter("GDALRasterAttributeTable"))
    thematic = any(table.get("tableType") == "thematic" for table in tables)
    # Before GDAL 2.4 tables said nothing of their type; one with names of classes (usage 2) is of classes.
    untold = (table for table in tables if table.get("tableType") is None)
    if any((use.text or "").strip() == "2" for table in untold for use in table.iter("Usage")):
        return "names of classes"
    layers = (item for item in root.iter("MDI") if item.get("key") == "LAYER_TYPE")
    if thematic or any(re.fullmatch("thematic", (item.text or "").strip()) for item in layers):
        return "a thematic layer"
    return ""


def _last(name: str) -> str:
    return name.rpartition("/")[2]
