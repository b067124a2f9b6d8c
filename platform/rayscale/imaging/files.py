"""Bytes in, :class:`Image` out, and back: the container is told by its first bytes, never by a name.

This is the one boundary to decoding libraries: whatever they raise leaves here as ``InputError``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rayscale.errors import InputError, RayscaleError, TooLargeError, UnsupportedError
from rayscale.imaging.containers import jpeg, png, tiff
from rayscale.imaging.image import Header, Image
from rayscale.settings import get_settings

T = TypeVar("T")


@dataclass(frozen=True)
class Container:
    """One readable and writable format."""

    name: str
    mime: str
    suffixes: tuple[str, ...]
    magic: tuple[bytes, ...]
    probe: Callable[[bytes], Header]
    read: Callable[[bytes, int], Image]
    write: Callable[[Image], bytes]


# GeoTIFF takes its place before "tiff" (same magic, told apart by its tags), DICOM and NIfTI after it;
# until then they are recognised below and refused by name.
CONTAINERS: dict[str, Container] = {
    container.name: container
    for container in (
        Container("png", "image/png", (".png",), (b"\x89PNG",), png.probe, png.read, png.write),
        Container(
            "jpeg",
            "image/jpeg",
            (".jpg", ".jpeg", ".jpe"),
            (b"\xff\xd8\xff",),
            jpeg.probe,
            jpeg.read,
            jpeg.write,
        ),
        Container(
            "tiff",
            "image/tiff",
            (".tif", ".tiff"),
            (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
            tiff.probe,
            tiff.read,
            tiff.write,
        ),
    )
}

MIME: dict[str, str] = {name: container.mime for name, container in CONTAINERS.items()}
"""Container name to media type."""

EXTENSIONS: dict[str, str] = {
    suffix: name for name, container in CONTAINERS.items() for suffix in container.suffixes
}
"""Lower-case file suffix to container name; the first suffix of a container is its usual one."""

_PLANNED = "is not handled yet, because {} would be lost"
# Formats known by sight: (offset, bytes) to what the message says. DICOM and NIfTI keep their seats.
_REFUSED: tuple[tuple[int, bytes, str], ...] = (
    (128, b"DICM", "a DICOM file " + _PLANNED.format("patient and geometry data")),
    (344, b"n+1\0", "a NIfTI file " + _PLANNED.format("its affine")),
    (344, b"ni1\0", "a NIfTI header " + _PLANNED.format("its affine")),
    (4, b"n+2\0", "a NIfTI-2 file " + _PLANNED.format("its affine")),
    (0, b"\x1f\x8b", "a gzip file (.nii.gz?) is not handled"),
    (0, b"GIF8", "GIF is not handled"),
    (0, b"BM", "BMP is not handled"),
    (8, b"WEBP", "WebP is not handled"),
    (4, b"ftypavif", "AVIF is not handled"),
    (4, b"ftyphei", "HEIC is not handled"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000 is not handled"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000 is not handled"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL is not handled"),
    (0, b"\xff\x0a", "JPEG XL is not handled"),
    (0, b"%PDF", "PDF is not handled"),
    (0, b"PK\x03\x04", "ZIP is not handled"),
)


def sniff(data: bytes) -> str | None:
    """Name of the container that ``data`` begins like, or None; the first 132 bytes are enough."""
    if data[128:132] == b"DICM":
        return None  # the 128 bytes before are free, and some DICOM files begin like a TIFF
    for container in CONTAINERS.values():
        if data.startswith(container.magic):
            return container.name
    return None


def probe(data: bytes) -> Header:
    """What ``data`` claims to hold, from its header alone: nothing is decoded, no limit is applied.

    Raises:
        InputError: empty or damaged.
        UnsupportedError: not a PNG, JPEG or TIFF, or of a kind that :func:`read_image` refuses
            (several pages are reported in ``Header.pages`` instead).
    """
    container = _container(data)
    return _guarded(container, lambda: container.probe(data))


def read_image(data: bytes, *, max_pixels: int | None = None) -> Image:
    """Decode ``data``, upright, with everything that :func:`write_image` must keep.

    Args:
        max_pixels: most pixels (height x width) accepted, and eight times as many decoded bytes;
            None takes ``max_input_pixels`` of the settings.

    Raises:
        InputError: empty, damaged or cut short.
        UnsupportedError: another format, or pixels, pages or georeference that cannot be kept.
        TooLargeError: over ``max_pixels``, raised before anything is decoded.
    """
    container = _container(data)
    limit = get_settings().max_input_pixels if max_pixels is None else max_pixels
    return _guarded(container, lambda: container.read(data, limit))


def write_image(image: Image) -> bytes:
    """Encode ``image`` in its container; the same image gives the same bytes.

    Raises:
        UnsupportedError: the container cannot hold these pixels (channels, bits, alpha), or is unknown.
        TooLargeError: the container cannot hold this many pixels.
        InputError: a remark that the container cannot hold.
    """
    if image.container not in CONTAINERS:
        raise UnsupportedError(
            f"container {image.container!r} is not one of {', '.join(CONTAINERS)}"
        )
    return CONTAINERS[image.container].write(image)


def _container(data: bytes) -> Container:
    if not data:
        raise InputError("the file is empty (0 bytes)")
    name = sniff(data)
    if name is not None:
        return CONTAINERS[name]
    known = ", ".join(container.name.upper() for container in CONTAINERS.values())
    for offset, magic, what in _REFUSED:
        if data[offset : offset + len(magic)] == magic:
            raise UnsupportedError(f"{what}; convert it to one of {known}")
    raise UnsupportedError(
        f"not an image: it begins with the bytes {data[:8].hex(' ')}, unlike {known}"
    )


def _guarded(container: Container, action: Callable[[], T]) -> T:
    name = container.name.upper()
    try:
        return action()
    except RayscaleError:
        raise
    except MemoryError as error:
        raise TooLargeError(f"not enough memory to decode this {name}; lower max_pixels") from error
    except UnicodeDecodeError as error:
        # imagecodecs cannot always print what went wrong inside libpng.
        raise InputError(f"{name} is damaged: its decoder gave up") from error
    except Exception as error:
        raise InputError(f"{name} is damaged: {str(error) or type(error).__name__}") from error
