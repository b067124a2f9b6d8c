"""Images as files: one :class:`Image` type, its containers, and the measures of picture quality.

``files`` reads and writes bytes, ``names`` knows their names, ``containers`` holds one module per format, ``metrics`` compares
two pixel arrays. Resampling lives in ``rayscale.resampling``; networks never appear here.
"""

from rayscale.imaging.files import (
    CONTAINERS,
    EXTENSIONS,
    MIME,
    check_side,
    convert_image,
    probe,
    read_image,
    sniff,
    write_image,
)
from rayscale.imaging.image import Header, Image
from rayscale.imaging.names import container_for, ending_of, heed_name, is_image, is_nameless
from rayscale.imaging.provenance import Provenance
from rayscale.options import Handling

__all__ = [
    "CONTAINERS",
    "EXTENSIONS",
    "MIME",
    "Handling",
    "Header",
    "Image",
    "Provenance",
    "check_side",
    "container_for",
    "convert_image",
    "ending_of",
    "heed_name",
    "is_image",
    "is_nameless",
    "probe",
    "read_image",
    "sniff",
    "write_image",
]
