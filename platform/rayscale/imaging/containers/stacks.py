"""How many pictures a TIFF holds: some programs hide a whole stack behind one directory, whatever the type of its pixels."""

from __future__ import annotations

import json
import re

from rayscale.errors import UnsupportedError
from rayscale.imaging.containers.ifd import Ifd

_DESCRIPTION = 270
_IMAGE_DEPTH, _TILE_DEPTH = 32997, 32998
_STK_PLANES = 33629  # of MetaMorph: as many values as planes


def count_pages(ifd: Ifd) -> int:
    """Full pictures of the file that begins with ``ifd``, also those without a directory of their own.

    Raises:
        UnsupportedError: a volume, or a file whose description cannot be kept true (OME).
        InputError: a damaged chain of directories.
    """
    description = ifd.text(_DESCRIPTION) or ""
    if "<OME" in description[:1000]:
        raise UnsupportedError(
            "OME-TIFF is not handled: its microscopy metadata would be lost; export it as plain TIFF"
        )
    if max(ifd.integer(_IMAGE_DEPTH, 1), ifd.integer(_TILE_DEPTH, 1)) > 1:
        raise UnsupportedError("TIFF is a volume (tag ImageDepth); only single pages are handled")
    hidden = 1
    if _STK_PLANES in ifd:
        hidden = ifd.fields[_STK_PLANES].length
    elif description.startswith("ImageJ=") and (
        match := re.search(r"^images=(\d{1,9})$", description, re.MULTILINE)
    ):
        hidden = int(match[1])
    elif description.startswith('{"shape"'):
        hidden = _of_tifffile(description)
    return max(hidden, ifd.full_pages())


def _of_tifffile(description: str) -> int:
    """The pages of an array whose further ones tifffile wrote without directories (``truncated``)."""
    try:
        told = json.loads(description)
        shape = [int(size) for size in told["shape"]]
    except (ValueError, KeyError, TypeError):
        return 1
    if told.get("truncated") is not True:
        return 1
    pages = 1
    for size in shape[:-2]:
        pages *= size
    return max(pages, 2)  # what was truncated had more than one
