"""A DICOM file to its data set, by pydicom within bounds: of items, of reads, of what a deflated one inflates to."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rayscale.errors import InputError, RayscaleError, TooLargeError
from rayscale.extras import load
from rayscale.imaging.containers.elements import identify, place_of
from rayscale.imaging.limits import METADATA_BYTES

MAX_ITEMS = 100_000
"""Items of all sequences of a file; each becomes an object of about a kilobyte. 1000 enhanced frames have 20 000."""

MAX_READS = 400_000
"""Reads of a parse; an element takes one or more, and 370 bytes of memory. 1000 enhanced frames have 60 000, and more with
private data."""

MAX_DEPTH = 32
"""Sequences within each other; enhanced objects have 5."""

_FIRST = 132  # the first element, after preamble and DICM
_LONG_VR = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"}
_DEFLATED, _EXPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1"
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")


@contextmanager
def discreetly(failure: str) -> Iterator[None]:
    """Whatever a library raises leaves as an InputError that says ``failure``, without its text, which may quote the file."""
    try:
        yield
    except (RayscaleError, MemoryError):
        raise
    except BaseException as error:
        # A decoder written in Rust panics with an exception that is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        place = place_of(load_pydicom(), error)
        what = failure if place is None else f"{failure}: its element {place}"
        raise InputError(f"{what} ({type(error).__name__})") from None


def load_pydicom() -> Any:
    """The library, silenced: its warnings and log lines quote values of the file."""
    pydicom = load("pydicom", "medical")
    for name in ("encaps", "filereader", "hooks", "pixels", "uid"):
        load(f"pydicom.{name}", "medical")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="pydicom")
    settings = pydicom.config.settings
    settings.reading_validation_mode = settings.writing_validation_mode = pydicom.config.IGNORE
    return pydicom


class _Elements(io.BytesIO):
    """A file of a bounded number of elements: eight bytes of file become some hundred of objects."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise TooLargeError(
                f"DICOM takes more than {MAX_READS} reads of its elements; remove private data"
            )
        return super().read(size)


def parse(data: bytes, pixel_bytes: int) -> Any:
    """The data set; with ``pixel_bytes`` 0 as far as the pixels. A deflated one is inflated up to what they need."""
    syntax, start = _file_meta(data)
    room = METADATA_BYTES + pixel_bytes
    cut = False
    if syntax == _DEFLATED:
        with discreetly("DICOM is damaged: its elements cannot be inflated"):
            body = zlib.decompressobj(-15).decompress(data[start:], room + 1)
        cut = len(body) > room
        if cut and pixel_bytes:
            raise TooLargeError(
                f"deflated DICOM inflates past {room} bytes, the size of its pixels and {METADATA_BYTES} bytes of "
                "other data"
            )
        # Of the same length, so that pydicom takes what follows as it is.
        head = data[:start].replace(_DEFLATED, _EXPLICIT.ljust(len(_DEFLATED), b"\0"))
        data = head + body
    if sum(data.count(tag) for tag in _ITEM_TAGS) > MAX_ITEMS:
        raise TooLargeError(f"DICOM has more than {MAX_ITEMS} items in its sequences")
    file = _Elements(data)
    pydicom = load_pydicom()
    with discreetly("DICOM is damaged: its elements cannot be told apart"):
        dataset = pydicom.dcmread(file, stop_before_pixels=pixel_bytes == 0)
    if cut and file.tell() >= len(data):  # else it stopped at the pixels
        raise TooLargeError(
            f"deflated DICOM has more than {METADATA_BYTES} bytes before its pixels; save it uncompressed"
        )
    if pixel_bytes:  # what is asked of a header lies in no sequence
        _count_folded(pydicom, dataset, file.reads)
    _trust_elements(pydicom, dataset)
    identify(dataset)
    return dataset


def _trust_elements(pydicom: Any, dataset: Any) -> None:
    """Files that name an explicit syntax and are implicit are read, but pydicom remembers the name when it writes."""
    raw = pydicom.dataelem.RawDataElement
    elements = (dataset.get_item(tag) for tag in dataset.keys())  # noqa: SIM118
    if (first := next((e for e in elements if isinstance(e, raw)), None)) is not None:
        dataset.set_original_encoding(first.is_implicit_VR, first.is_little_endian)


def _count_folded(pydicom: Any, dataset: Any, reads: int) -> None:
    """Go on counting ``reads`` in sequences of defined length, which pydicom parses only when somebody asks for them."""
    level = [dataset]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for holder in level:
            for tag in holder.keys():  # noqa: SIM118
                try:
                    element = holder.get_item(tag)
                except NotImplementedError:  # of a type that does not exist
                    continue
                if _is_folded(pydicom, element, holder):
                    value = _Elements(element.value)
                    value.reads = reads
                    try:
                        inner += pydicom.filereader.read_sequence(
                            value, element.is_implicit_VR, element.is_little_endian, len(element.value), "ascii"
                        )  # fmt: skip
                    except (RayscaleError, MemoryError):
                        raise
                    except Exception:  # damaged: who asks for it will hear, and mostly nobody does
                        pass
                    reads = value.reads
                elif element.VR == "SQ":
                    inner += element.value or []
        if not inner:
            return
        level = inner
    raise TooLargeError(
        f"DICOM has sequences within sequences {MAX_DEPTH} deep; remove private data"
    )


def _is_folded(pydicom: Any, element: Any, holder: Any) -> bool:
    """Whether ``element`` is the bytes of a sequence, by the rules that pydicom will read them by."""
    if not isinstance(element, pydicom.dataelem.RawDataElement) or not element.value:
        return False
    found: dict[str, Any] = {}
    pydicom.hooks.raw_element_vr(element, found, ds=holder)
    return bool(found["VR"] == "SQ")


def _file_meta(data: bytes) -> tuple[bytes, int]:
    """Transfer syntax, and where the data set begins; the file meta group is always explicit little endian."""
    at, syntax = _FIRST, b""
    while data[at : at + 2] == b"\x02\0" and at + 12 <= len(data):
        if data[at + 4 : at + 6] in _LONG_VR:
            size, head = int.from_bytes(data[at + 8 : at + 12], "little"), 12
        else:
            size, head = int.from_bytes(data[at + 6 : at + 8], "little"), 8
        if data[at + 2 : at + 4] == b"\x10\0":
            syntax = data[at + head : at + head + size].rstrip(b"\0 ")
        at += head + size
    if not syntax:
        raise InputError("DICOM is damaged: its file meta information names no transfer syntax")
    return syntax, at
