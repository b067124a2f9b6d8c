"""Files beside a raster that GDAL reads together with it: here a file is taken as whole."""

from __future__ import annotations

from rayscale.errors import UnsupportedError

MASK = ".msk"
"""What GDAL appends to the name of a raster for that of its mask."""

WORLD_FILES = (".tfw", ".tifw", ".tiffw", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw", ".wld")
"""What may stand in place of the ending of a raster for the six numbers of its transform."""


def masked_apart(name: str) -> UnsupportedError:
    """The error of a raster with a mask beside it, without which pixels would pass for measured."""
    return UnsupportedError(
        f"the mask of {name} lies in {name}{MASK}, which is not read; make one file of both: gdal_translate --config "
        f"GDAL_TIFF_INTERNAL_MASK YES {name} whole.tif"
    )
