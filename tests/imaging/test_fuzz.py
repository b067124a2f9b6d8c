"""Damaged files of every container: an image or one error, and nothing is said of what a file holds about a patient."""

from __future__ import annotations

import gzip
import io
import logging
import re
import traceback
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image as Pillow
from tests.imaging.test_description import camera, stored
from tests.imaging.test_files import SAMPLES

from rayscale.errors import RayscaleError
from rayscale.imaging import Provenance, probe, read_image, write_image
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.options import Options

PROVENANCE = Provenance("edsr/3", "0f" * 32, {"scale": 2})
ROUNDS = 600
PATIENT = "Mustermann|Erika|4711|19700101|Muenster"

# Bytes at which parsers turn: no and all bits, ends of signed ranges.
TURNS = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
# Types of DICOM elements, and one that does not exist.
TYPES = (b"LO", b"DS", b"US", b"SQ", b"OB", b"UN", b"PN", b"IS", b"FD", b"AT", b"UT", b"XX")


def pictures() -> list[bytes]:
    described = [stored(container, camera()) for container in ("png", "jpeg", "webp", "tiff")]
    return [*SAMPLES, *described]


def scenes() -> list[bytes]:
    pytest.importorskip("rasterio", reason="needs the extra geo")
    from tests.imaging.test_geotiff import noise, scene

    return [
        scene(noise(30, 31, 2), compress="deflate", nodata=7),
        scene(
            noise(30, 31, 3, dtype="uint8", low=0, high=99),
            lambda dataset: dataset.write_mask(True),
            compress="lzw",
        ),
        scene(noise(30, 31, 1, dtype="float32"), lambda dataset: dataset.update_tags(1, A="b")),
    ]


def volumes() -> list[bytes]:
    pytest.importorskip("nibabel", reason="needs the extra medical")
    from tests.imaging.test_nifti import nibabel, saved, volume

    plain = saved(volume(9, 7, 5))
    second = saved(volume(9, 7, 5, cls=nibabel.Nifti2Image))
    return [plain, second, saved(volume(6, 5, 4, dtype="float32")), gzip.compress(plain)]


def scans() -> list[bytes]:
    pytest.importorskip("pydicom", reason="needs the extra medical")
    from pydicom import uid
    from pydicom.encaps import encapsulate
    from tests.imaging.dicom_objects import Dataset, compress, saved, scan

    stream = io.BytesIO()
    Pillow.new("RGB", (24, 16), "red").save(stream, "JPEG")
    colour = scan(
        (16, 24, 3), "uint8", SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, high=255,
    )  # fmt: skip
    colour.PixelData = encapsulate([stream.getvalue()])
    colour["PixelData"].is_undefined_length = True
    packed = {syntax: scan((40, 48)) for syntax in (uid.JPEG2000Lossless, uid.RLELossless)}
    for syntax, ds in packed.items():
        compress(ds, syntax)
    measures, shared, region = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [0.7, 0.5]
    shared.PixelMeasuresSequence = [measures]
    region.RegionLocationMinX0, region.ReferencePixelX0, region.PhysicalDeltaX = 2, 3, 0.1
    frames = scan(
        (2, 10, 12), NumberOfFrames=2, SharedFunctionalGroupsSequence=[shared], SequenceOfUltrasoundRegions=[region],
        InstitutionName="Muenster", PixelPaddingValue=-2000, SmallestImagePixelValue=3,
    )  # fmt: skip
    return [
        saved(scan()),
        saved(scan(), uid.ImplicitVRLittleEndian),
        saved(scan(), uid.DeflatedExplicitVRLittleEndian),
        saved(frames),
        saved(colour, uid.JPEGBaseline8Bit),
        *(saved(ds, syntax) for syntax, ds in packed.items()),
    ]


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """``data`` with one to five wounds: bytes changed, lost, added, another type of an element, a name in the wrong place, a
    lost end."""
    out = bytearray(data)
    for _ in range(random.integers(1, 6)):
        kind, at, count = random.integers(7), int(random.integers(len(out))), random.integers(1, 20)
        if kind == 0:
            out[at] = random.integers(256)
        elif kind == 1:
            size = int(random.integers(1, 5))
            out[at : at + size] = random.choice(TURNS, size).astype(np.uint8).tobytes()
        elif kind == 2:
            del out[at : at + int(count)]
        elif kind == 3:
            out[at:at] = random.bytes(count)
        elif kind == 4 and (places := [m.start() for m in re.finditer(b"[A-Z]{2}", out)]):
            place = random.choice(places)
            out[place : place + 2] = random.choice(TYPES)
        elif kind == 5:
            out[at : at + 10] = b"Mustermann"
        elif kind == 6 and random.integers(5) == 0:
            del out[at:]
        out = out or bytearray(1)
    return bytes(out)


def use(data: bytes) -> None:
    """What every door does with a file."""
    header = probe(data)
    image = read_image(data, max_pixels=100_000)
    assert (header.height, header.width, header.slices) == (
        image.height, image.width, image.frames,
    )  # fmt: skip
    image = Upscaler(create_model("bicubic", scale=2), Options(scale=2)).upscale(image)
    read_image(write_image(image, PROVENANCE))


# rasterio cannot decode messages of GDAL that quote bytes of the file, and Python says so.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("samples", [pictures, scenes, volumes, scans])
def test_a_damaged_file_is_an_image_or_one_error(
    samples: Callable[[], list[bytes]], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    whole, random = samples(), np.random.default_rng(26)
    caplog.set_level(logging.DEBUG)
    for data in whole:
        use(data)
    said, read = [], 0
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for turn in range(ROUNDS):
            try:
                use(damaged(whole[turn % len(whole)], random))
                read += 1
            except RayscaleError as error:
                said.append(str(error))
                said += traceback.format_exception(error)  # as a log or Ray would print it
    assert ROUNDS / 10 < read < ROUNDS * 9 / 10
    texts = [*said, *(str(w.message) for w in warned), caplog.text, *capfd.readouterr()]
    if samples in (volumes, scans):
        assert not warned
    if samples is scans:
        assert not caplog.records
        assert not re.search(PATIENT, "\n".join(texts), re.IGNORECASE)
