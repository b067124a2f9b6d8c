"""DICOM files whose patient must not be named anywhere, sound and damaged, and a search for that patient."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PATIENT = "QXZPatient"
"""Part of every value about the patient; nothing else has it."""

_SPACING = b"0.7\\0.5 "  # as it stands in the file


def make_files() -> dict[str, bytes]:
    """Name -> file: one that is read, and others that are not or that make a reader speak of their values."""
    from tests.imaging.dicom_objects import saved, scan

    sound = saved(
        scan(
            PatientName=f"{PATIENT}^Erika",
            PatientID=f"{PATIENT}-4711",
            PatientAddress=f"{PATIENT} Street 1",
            PatientComments=f"of {PATIENT}",
            InstitutionName=f"{PATIENT} Hospital",
            ReferringPhysicianName=f"{PATIENT}^Doctor",
            StudyDescription=f"{PATIENT} study",
            AccessionNumber=f"{PATIENT}1",
            SpecificCharacterSet="ISO_IR 100",
        )
    )
    name = f"{PATIENT}^Erika".encode()
    assert sound.count(PATIENT.encode()) == 8
    assert _SPACING in sound

    def with_value(old: bytes, new: bytes) -> bytes:
        return sound.replace(old, new.ljust(len(old))[: len(old)])

    return {
        "sound.dcm": sound,
        "cut in the pixels.dcm": sound[:-50],
        "cut in the patient.dcm": sound[: sound.index(name) + len(name)],
        "cut behind the spacing.dcm": sound[: sound.index(_SPACING) + 40],
        "the name for a number.dcm": with_value(_SPACING, b"QXZPatie"),
        "the name for a date.dcm": with_value(b"19700101", b"QXZPatie"),
        "the name for a character set.dcm": with_value(b"ISO_IR 100", b"QXZPatient"),
        "the name for a modality.dcm": with_value(b"CS\x02\x00CT", b"CS\x02\x00QX"),
        "a length too large.dcm": sound.replace(
            b"PN" + len(name).to_bytes(2, "little"), b"PN\xff\xff"
        ),
        "the name in the head.dcm": sound[:132] + name * 20 + sound[132:],
        "the name alone.dcm": name * 200,
    }


def find_patient(places: Iterable[Path]) -> Iterator[str]:
    """Where the patient stands below ``places``, with the line around."""
    for place in places:
        assert place.is_dir(), place
        for file in place.rglob("*"):
            if file.is_file():  # sockets are none
                for found in re.finditer(rb"[^\n]{0,100}QXZPatie[^\n]{0,50}", file.read_bytes()):
                    yield f"{file}: {found[0].decode(errors='replace')}"
