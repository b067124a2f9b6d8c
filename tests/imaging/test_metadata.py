"""The policy of ``docs/metadata.md``: every row names a test that is there, and what has no test elsewhere is tested here."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rayscale.imaging import CONTAINERS, Handling, Image, read_image, write_image

STRIP = Handling(metadata="strip")


def rows(checkout: Path) -> dict[str, list[list[str]]]:
    """Heading to the rows of its table."""
    text = (checkout / "docs" / "metadata.md").read_text()
    found: dict[str, list[list[str]]] = {}
    for part in text.split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("| ")]
        found[heading] = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]  # fmt: skip
    return found


def test_every_row_names_a_test_that_is_there(checkout):
    tables = rows(checkout)
    assert sum(map(len, tables.values())) > 40
    for heading, table in tables.items():
        for what, outcome, test in table:
            match = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", test)
            assert match, f"{heading}: {what}: {test}"
            source = (checkout / "tests" / "imaging" / match[1]).read_text()
            assert f"\ndef {match[2]}(" in source, f"{heading}: {what}: {test}"
            assert outcome


def test_every_container_has_its_table(checkout):
    names = {heading.lower() for heading in rows(checkout)}
    assert {name.removesuffix("-gz") for name in CONTAINERS} <= names


def test_other_chunks_of_a_png_are_left_out():
    data = write_image(Image(np.full((4, 5, 3), 90, np.uint8)))
    bodies = {
        b"tIME": bytes(7), b"hIST": bytes(2), b"sPLT": b"a\0\x08" + bytes(6), b"oFFs": bytes(9), b"sCAL": b"\x011\x001",
        b"pCAL": b"a\0" + bytes(12), b"prVt": b"private", b"saFe": b"private",
    }  # fmt: skip
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in bodies.items()
    )
    written = write_image(read_image(data[:33] + chunks + data[33:]))
    assert [kind for kind in bodies if kind in written] == []


def test_stripping_leaves_place_and_patient(tmp_path):
    pytest.importorskip("rasterio")
    pytest.importorskip("pydicom")
    nibabel = pytest.importorskip("nibabel")
    import rasterio
    from tests.imaging.dicom_objects import PATIENT, PROVENANCE, opened, saved, scan
    from tests.imaging.geotiff_objects import UTM, save

    path = save(tmp_path / "a.tif", np.arange(48, dtype=np.int16).reshape(6, 8, 1), nodata=-9999)
    scene = read_image(path.read_bytes(), handling=STRIP)
    (tmp_path / "b.tif").write_bytes(write_image(scene))
    with rasterio.open(tmp_path / "b.tif") as result:
        assert (result.transform, result.crs.to_epsg(), result.nodata) == (UTM, 32632, -9999)
    slices = read_image(saved(scan()), handling=STRIP)
    assert opened(write_image(slices, PROVENANCE)).PatientName == PATIENT
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    brain = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3), affine)
    volume = read_image(brain.to_bytes(), handling=STRIP)
    result = nibabel.Nifti1Image.from_bytes(write_image(volume))
    np.testing.assert_allclose(result.affine, affine)


def test_a_stripped_picture_still_says_what_made_it():
    from rayscale.imaging import Provenance

    source = replace(Image(np.zeros((4, 4, 3), np.uint8)), text={"Author": "Ada"})
    image = read_image(write_image(source), handling=STRIP)
    assert set(read_image(write_image(image, Provenance("bicubic", "none", {}))).text) == {"rayscale"}  # fmt: skip
