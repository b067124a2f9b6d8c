"""A real Orthanc takes the derived objects: it indexes, groups and decodes them, and gives the pixels back equal."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from rayscale.imaging import read_image

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage, generate_uid  # noqa: E402
from tests.imaging.dicom_objects import PROVENANCE, opened, saved, scan, upscaled  # noqa: E402

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

pytestmark = pytest.mark.skipif(ORTHANC is None, reason="needs Orthanc (Debian orthanc)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server of its own, which keeps everything in a temporary folder and listens on loopback alone."""
    folder = tmp_path_factory.mktemp("orthanc")
    port = free_port()
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    log = folder / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [str(ORTHANC), str(folder / "orthanc.json")], stdout=stream, stderr=stream, cwd=folder
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _await(client, server, log)
            yield client
    finally:
        server.terminate()
        server.wait(60)


def _await(client: httpx.Client, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if client.get("/system").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)


def stored(orthanc: httpx.Client, data: bytes) -> str:
    """The path of the instance that the server made of ``data``."""
    answer = orthanc.post("/instances", content=data)
    assert answer.status_code == 200, answer.text
    assert answer.json()["Status"] == "Success"
    return f"/instances/{answer.json()['ID']}"


def frames() -> bytes:
    """Three frames in one object of an older kind, without functional groups."""
    return saved(
        scan(
            (3, 10, 12), "uint16", NumberOfFrames=3, Modality="OT",
            SOPClassUID=MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
            SOPInstanceUID=generate_uid(entropy_srcs=["frames"]),
        )
    )  # fmt: skip


SOURCES = {
    "a CT slice": lambda: Path(get_testdata_file("CT_small.dcm")).read_bytes(),
    "an MR slice": lambda: Path(get_testdata_file("MR_small.dcm")).read_bytes(),
    "an oblique CT slice": lambda: saved(scan()),
    "several frames": frames,
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_object_is_taken_its_tags_are_read_and_its_pixels_come_back(orthanc, name):
    source = SOURCES[name]()
    derived = upscaled(source)
    place = stored(orthanc, derived)
    before, after = opened(source), opened(derived)
    tags = orthanc.get(f"{place}/simplified-tags").json()
    for kept in ("PatientID", "StudyInstanceUID", "Modality"):
        assert tags[kept] == str(before[kept].value)
    assert tags["SOPInstanceUID"] == after.SOPInstanceUID
    assert tags["ImageType"].startswith("DERIVED\\SECONDARY")
    assert (int(tags["Rows"]), int(tags["Columns"])) == (2 * before.Rows, 2 * before.Columns)
    assert "research use" in tags["SeriesDescription"]
    reference = tags["SourceImageSequence"][0]
    assert reference["ReferencedSOPInstanceUID"] == before.SOPInstanceUID
    equipment = tags["ContributingEquipmentSequence"][-1]
    assert PROVENANCE.digest in equipment["ContributionDescription"]

    expected = read_image(derived).pixels[..., 0].reshape(-1, after.Rows, after.Columns)
    names = orthanc.get(f"{place}/frames").json()
    assert len(names) == len(expected)
    for number, frame in zip(names, expected, strict=True):
        raw = orthanc.get(f"{place}/frames/{number}/raw").content
        np.testing.assert_array_equal(np.frombuffer(raw, frame.dtype), frame.ravel())
        # Orthanc's own decoder, which has to make sense of the tags, agrees.
        kind = "image-int16" if frame.dtype.kind == "i" else "image-uint16"
        shown = orthanc.get(
            f"{place}/frames/{number}/{kind}", headers={"Accept": "image/x-portable-arbitrarymap"}
        )
        assert shown.status_code == 200, shown.text
        head, _, body = shown.content.partition(b"ENDHDR\n")
        assert f"WIDTH {after.Columns}".encode() in head
        decoded = np.frombuffer(body, frame.dtype.newbyteorder(">")).reshape(frame.shape)
        np.testing.assert_array_equal(decoded, frame)
    assert orthanc.get(f"{place}/file").content == derived


def test_slices_of_a_series_are_one_series_beside_their_source(orthanc):
    study, series = (generate_uid(entropy_srcs=["orthanc", part]) for part in ("study", "series"))
    slices = [
        saved(
            scan(
                SOPInstanceUID=generate_uid(entropy_srcs=["orthanc", str(number)]),
                StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number,
                ImagePositionPatient=[-100.5, 20.25, 3.0 * number],
            )
        )
        for number in (1, 2, 3)
    ]  # fmt: skip
    derived = [upscaled(data) for data in slices]
    places = [stored(orthanc, data) for data in (*slices, *derived)]
    found = [orthanc.get(f"{place}/series").json() for place in places]
    assert len({item["ID"] for item in found[:3]}) == 1
    assert len({item["ID"] for item in found[3:]}) == 1
    assert found[0]["ID"] != found[3]["ID"]
    assert found[0]["ParentStudy"] == found[3]["ParentStudy"]
    assert len(orthanc.get(f"/series/{found[3]['ID']}").json()["Instances"]) == 3
    # A rerun writes the same objects: the server knows them already.
    answer = orthanc.post("/instances", content=upscaled(slices[1]))
    assert answer.json()["Status"] == "AlreadyStored"
