"""Bytes in, :class:`Image` out, and back: the container is told by its first bytes, never by a name.

This is the one boundary to decoding and encoding libraries: whatever they raise leaves here as ``InputError``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from rayscale.errors import InputError, RayscaleError, TooLargeError, UnsupportedError
from rayscale.imaging.containers import dicom, exif, geotiff, jpeg, nifti, png, tiff, webp
from rayscale.imaging.containers.ifd import Ifd
from rayscale.imaging.image import Header, Image, Pixels
from rayscale.imaging.provenance import Provenance
from rayscale.options import DEFAULTS, Handling
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
    read: Callable[[bytes, int, Handling], Image]
    write: Callable[[Image, Provenance | None], bytes]
    max_side: int | None = None
    """Most pixels of width and height that it can hold, None when memory ends first."""


def _remark(write: Callable[[Image], bytes]) -> Callable[[Image, Provenance | None], bytes]:
    """The writer of a container that holds provenance as a remark of its own."""

    def writing(image: Image, provenance: Provenance | None) -> bytes:
        return write(
            image if provenance is None else image.with_text(rayscale=provenance.to_json())
        )

    return writing


CONTAINERS: dict[str, Container] = {
    container.name: container
    for container in (
        Container(
            "png",
            "image/png",
            (".png",),
            (b"\x89PNG",),
            png.probe,
            png.read,
            _remark(png.write),
            png.MAX_SIDE,
        ),
        Container(
            "jpeg",
            "image/jpeg",
            (".jpg", ".jpeg", ".jpe", ".jfif"),
            (b"\xff\xd8\xff",),
            jpeg.probe,
            jpeg.read,
            _remark(jpeg.write),
            jpeg.MAX_SIDE,
        ),
        Container(
            "tiff",
            "image/tiff",
            (".tif", ".tiff"),
            (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
            tiff.probe,
            tiff.read,
            _remark(tiff.write),
        ),
        Container(
            "webp",
            "image/webp",
            (".webp",),
            (),
            webp.probe,
            webp.read,
            _remark(webp.write),
            webp.MAX_SIDE,
        ),
        # No magic of its own: a TIFF whose tags say more than a picture (``geotiff.claims``).
        Container(
            "geotiff",
            "image/tiff; application=geotiff",
            (".tif", ".tiff"),
            (),
            geotiff.probe,
            geotiff.read,
            geotiff.write,
            geotiff.MAX_SIDE,
        ),
        Container(
            "dicom",
            "application/dicom",
            (".dcm",),
            (),
            dicom.probe,
            dicom.read,
            dicom.write,
            dicom.MAX_SIDE,
        ),
        Container(
            "nifti",
            "application/x-nifti",
            (".nii",),
            (),
            nifti.probe,
            nifti.read,
            nifti.write,
        ),
        Container(
            "nifti-gz",
            "application/gzip",
            (".nii.gz",),
            (),
            nifti.probe,
            nifti.read,
            nifti.write,
        ),
    )
}

MIME: dict[str, str] = {name: container.mime for name, container in CONTAINERS.items()}
"""Container name to media type."""

EXTENSIONS: dict[str, str] = {
    suffix: name
    for name, container in reversed(CONTAINERS.items())
    for suffix in container.suffixes
}
"""Lower-case file suffix to container name, the plain one where several share it."""

# Formats known by sight: (offset, bytes) to what the message says.
_REFUSED: tuple[tuple[int, bytes, str], ...] = (
    (344, b"ni1\0", "a NIfTI header without its pixels (.hdr and .img) is not handled"),
    (4, b"ni2\0", "a NIfTI-2 header without its pixels (.hdr and .img) is not handled"),
    (0, b"\x1f\x8b", "a gzip file that holds no NIfTI is not handled"),
    (0, b"GIF8", "GIF is not handled"),
    (0, b"BM", "BMP is not handled"),
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
    """Name of the container that ``data`` begins like, or None; the first kilobyte is enough.

    A GeoTIFF begins like any TIFF: only its tags, which may lie at the end of the file, tell them apart.
    """
    if data[128:132] == b"DICM":
        return "dicom"  # the 128 bytes before are free, and some DICOM files begin like a TIFF
    if webp.claims(data):
        return "webp"
    if (volume := nifti.kind(data)) is not None:
        return volume
    for container in CONTAINERS.values():
        if container.magic and data.startswith(container.magic):
            return container.name
    return None


def probe(data: bytes) -> Header:
    """What ``data`` claims to hold, from its header alone: nothing is decoded, no limit is applied.

    Raises:
        InputError: empty or damaged.
        UnsupportedError: of no container that is read, or of a kind that :func:`read_image` refuses
            (several pages are reported in ``Header.pages`` instead).
    """
    container = _container(data)
    return _reading(container, lambda: container.probe(data))


def read_image(
    data: bytes, *, max_pixels: int | None = None, handling: Handling = DEFAULTS
) -> Image:
    """Decode ``data``, upright, with everything that :func:`write_image` must keep.

    Args:
        max_pixels: most pixels (height x width) accepted, and eight times as many decoded bytes;
            None takes ``max_input_pixels`` of the settings.
        handling: what the user decided about levels, labels and metadata.

    Raises:
        InputError: empty, damaged or cut short.
        UnsupportedError: another format, or pixels, pages or georeference that cannot be kept.
        TooLargeError: over ``max_pixels``, raised before anything is decoded.
    """
    container = _container(data)
    limit = get_settings().max_input_pixels if max_pixels is None else max_pixels
    image = _reading(container, lambda: container.read(data, limit, handling))
    return image.handle(handling)


def write_image(image: Image, provenance: Provenance | None = None) -> bytes:
    """Encode ``image`` in its container; the same image gives the same bytes.

    Args:
        provenance: what made the image; becomes part of the file. A DICOM object cannot do without.

    Raises:
        UnsupportedError: the container cannot hold these pixels (channels, bits, alpha) or this metadata.
        TooLargeError: the container cannot hold this many pixels.
        InputError: a remark that the container cannot hold, or anything else that its encoder refuses.
    """
    check_side(image.container, image.width, image.height)
    metadata = image.metadata
    if metadata is not None and image.container not in metadata.containers:
        usable = [suffix for name in metadata.containers for suffix in CONTAINERS[name].suffixes]
        raise UnsupportedError(
            f"a {metadata.containers[0].upper()} cannot be written as {image.container.upper()}: its geometry "
            f"would be lost; give the output the ending {' or '.join(usable)}"
        )
    if provenance is not None and image.levels is not None:
        provenance = provenance.with_parameters(levels=image.levels.describe())
    container = CONTAINERS[image.container]
    return _writing(container, lambda: container.write(image, provenance))


def convert_image(image: Image, container: str) -> Image:
    """The picture to be written in another container, with notes of what that has no place for.

    Pixels that it cannot hold are refused by :func:`write_image`.
    """
    pixels, notes = image.pixels, []
    if image.alpha is not None and 1 in image.encoding.get("extrasamples", ()):
        pixels = _divide_by_alpha(pixels, image.alpha)
    colour = sorted(set(image.encoding.get("colour", {})) - {"sRGB", "sBIT", "bKGD"})
    if colour and not (image.icc and set(colour) <= {"gAMA", "cHRM"}):
        notes.append(
            f"{container.upper()} cannot hold the colour description of the PNG ({', '.join(colour)}); colours may look "
            "different"
        )
    lost = [
        name.upper()
        for name, block in zip(("exif", "xmp", "iptc"), _blocks(image), strict=True)
        if block
        and (
            (container == "webp" and name == "iptc")
            or (container == "jpeg" and not jpeg.fits(name, block))
        )
    ]
    if lost:
        notes.append(f"{container.upper()} cannot hold the {' and '.join(lost)} of this file")
    block = _blocks(image)[0]
    if container == "tiff" and block and exif.has_maker_note(Ifd.first(block)):
        notes.append(exif.MAKER_NOTE_LOST)
    return replace(image, pixels=pixels, container=container, encoding={}).with_notes(*notes)


def _blocks(image: Image) -> tuple[bytes | None, ...]:
    return (None, None, None) if image.description is None else image.description.blocks


def _divide_by_alpha(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Colours that were multiplied by alpha, as the containers other than TIFF store them."""
    peak = np.iinfo(pixels.dtype).max
    opacity = np.maximum(alpha, 1).astype(np.uint64)[:, :, None]
    values = (pixels.astype(np.uint64) * peak + opacity // 2) // opacity
    return np.asarray(np.minimum(values, peak), pixels.dtype)


def check_side(container: str, width: int, height: int) -> None:
    """Raise TooLargeError when ``container`` cannot hold this many pixels a side, however they are coded."""
    limit = CONTAINERS[container].max_side
    if limit is not None and max(width, height) > limit:
        raise TooLargeError(
            f"{container.upper()} of {width} x {height} is over its limit of {limit} pixels a side; "
            "cut the image or write a container of larger ones, such as TIFF"
        )


def _container(data: bytes) -> Container:
    if not data:
        raise InputError("the file is empty (0 bytes)")
    name = sniff(data)
    if name == "tiff" and geotiff.claims(data):
        name = "geotiff"
    if name is not None:
        return CONTAINERS[name]
    known = ", ".join(container.name.upper() for container in CONTAINERS.values())
    for offset, magic, what in _REFUSED:
        if data[offset : offset + len(magic)] == magic:
            raise UnsupportedError(f"{what}; convert it to one of {known}")
    raise UnsupportedError(
        f"not an image: it begins with the bytes {data[:8].hex(' ')}, unlike {known}"
    )


def _reading(container: Container, action: Callable[[], T]) -> T:
    name = container.name.upper()
    return _guard(action, f"{name} is damaged", f"decode this {name}; lower max_pixels")


def _writing(container: Container, action: Callable[[], T]) -> T:
    name = container.name.upper()
    return _guard(action, f"this {name} cannot be written", f"encode this {name}; cut the image")


def _guard(action: Callable[[], T], failure: str, task: str) -> T:
    try:
        return action()
    except RayscaleError:
        raise
    except MemoryError as error:
        raise TooLargeError(f"not enough memory to {task}") from error
    except UnicodeDecodeError as error:
        # imagecodecs cannot always print what went wrong inside libpng.
        raise InputError(f"{failure}: its codec gave up") from error
    except Exception as error:
        raise InputError(f"{failure}: {str(error) or type(error).__name__}") from error
