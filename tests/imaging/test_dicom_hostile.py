"""DICOM that lies, is damaged or makes a library talk: one error, little memory, and nothing about the patient."""

from __future__ import annotations

import logging
import tracemalloc
import warnings
import zlib
from functools import partial
from unittest.mock import Mock

import pytest

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging import probe, read_image
from rayscale.imaging.containers import dicom_file

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless  # noqa: E402
from tests.imaging.dicom_objects import (  # noqa: E402
    PATIENT,
    complaint,
    compress,
    opened,
    saved,
    scan,
    upscaled,
)


def deflated(before: bytes = b"", after: bytes = b"", **elements) -> bytes:
    """A deflated scan with more elements ``before`` and ``after`` its pixels."""
    plain = saved(scan(**elements))
    start, pixels = plain.index(b"\x08\0\x08\0CS"), plain.rindex(b"\xe0\x7f\x10\0OW")
    packed = saved(scan(**elements), DeflatedExplicitVRLittleEndian)
    group = packed.index(b"\x02\0\0\0UL\4\0") + 8
    head = packed[: group + 4 + int.from_bytes(packed[group : group + 4], "little")]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = plain[start:pixels] + before + plain[pixels:] + after
    return head + packer.compress(body) + packer.flush()


def private(length: int, group: int = 0x31) -> bytes:
    """A private element of ``length`` zeros."""
    return (
        group.to_bytes(2, "little")
        + b"\x10\x10OB\0\0"
        + length.to_bytes(4, "little")
        + bytes(length)
    )


def empty(count: int, group: int) -> bytes:
    """``count`` empty private elements of eight bytes."""
    return b"".join(
        (group + 2 * (i // 60000)).to_bytes(2, "little") + (0x1000 + i % 60000).to_bytes(2, "little") + b"LO\0\0"
        for i in range(count)
    )  # fmt: skip


def test_a_deflated_bomb_stays_small():
    bomb = deflated(after=private(100 << 20, 0x7FE1))
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    probe(bomb)
    with pytest.raises(TooLargeError, match="inflates past"):
        read_image(bomb)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("read", [probe, read_image])
def test_what_is_deflated_is_counted_after_inflating(read):
    # Large claimed pixels give the other data no more room.
    large = {"Rows": 4000, "Columns": 4000}
    assert read(deflated(private(4000))).height == 10
    with pytest.raises(TooLargeError, match="4194304 bytes before its pixels"):
        read(deflated(private(5 << 20), **large))
    items = b"\x31\0\x10\x10SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0" * 100_001
    bomb = deflated(items, **large)
    assert len(bomb) < 6000
    with pytest.raises(TooLargeError, match="100000 items"):
        read(bomb)


@pytest.fixture
def few_reads(monkeypatch):
    """A hundredth of the limit, which takes seconds to reach."""
    assert dicom_file.MAX_READS == 400_000
    monkeypatch.setattr(dicom_file, "MAX_READS", 4000)


@pytest.mark.parametrize("group", [0x31, 0x7FE1], ids=["before", "after"])
def test_elements_are_counted(group, few_reads):
    many, place = empty(5000, group), "before" if group < 0x7FE0 else "after"
    with pytest.raises(TooLargeError, match="4000 reads"):
        read_image(deflated(**{place: many}, Rows=1000, Columns=1000))
    assert probe(deflated(empty(500, 0x31))).width == 12


def sequence(value: bytes, tag: bytes = b"\0\x52\x30\x92") -> bytes:
    """A sequence of one item, both of defined length, by default the per-frame groups of an enhanced object."""
    item = b"\xfe\xff\0\xe0" + len(value).to_bytes(4, "little") + value
    return tag + b"SQ\0\0" + len(item).to_bytes(4, "little") + item


def test_what_lies_in_sequences_of_defined_length_is_counted_too(few_reads):
    """Nothing reads it until it is written: half a minute and 140 MB for the 4 MB of half a million elements."""
    plain = saved(scan())
    pixels = plain.rindex(b"\xe0\x7f\x10\0OW")
    with pytest.raises(TooLargeError, match="4000 reads"):
        read_image(plain[:pixels] + sequence(sequence(empty(5000, 0x31))) + plain[pixels:])
    private = sequence(empty(50, 0x31), b"\x11\0\x10\x10")
    few = plain[:pixels] + sequence(empty(50, 0x31) + private) + plain[pixels:]
    assert read_image(few).width == 12
    assert opened(upscaled(few)).Rows == 20


def test_a_damaged_sequence_that_nobody_asks_for_is_no_damage():
    plain = saved(scan())
    at = plain.index(b"\x18\0\x50\0DS")
    folded = bytearray(sequence(empty(2, 0x31), b"\x11\0\x10\x10") + b"\0\0")
    folded[8:12] = (len(folded) - 12).to_bytes(4, "little")  # two bytes behind its only item
    data = plain[:at] + bytes(folded) + plain[at:]
    assert opened(upscaled(data)).Rows == 20


def test_sequences_of_defined_length_are_not_followed_for_ever():
    plain = saved(scan())
    pixels = plain.rindex(b"\xe0\x7f\x10\0OW")
    nested = b""
    for _ in range(40):
        nested = sequence(nested)
    with pytest.raises(TooLargeError, match="32 deep"):
        read_image(plain[:pixels] + nested + plain[pixels:])


def test_header_bombs_and_endless_sequences_are_refused():
    with pytest.raises(TooLargeError, match="60000 x 60000"):
        read_image(saved(scan(Rows=60000, Columns=60000)))
    with pytest.raises(TooLargeError, match="x 2000000"):
        read_image(saved(scan(NumberOfFrames=2000000)))
    ds = scan()
    ds.add_new(0x00111010, "UN", b"\xfe\xff\x00\xe0\0\0\0\0" * 100_001)
    with pytest.raises(TooLargeError, match="100000 items"):
        read_image(saved(ds))
    nested = b""
    for _ in range(5000):
        nested = b"\x40\x00\x75\xa0SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + nested
    plain = saved(scan())
    pixels = plain.rindex(b"\xe0\x7f\x10\0OW")
    with pytest.raises(InputError):
        read_image(plain[:pixels] + nested)


def test_a_compressed_frame_cannot_claim_more_than_its_tags():
    ds = scan((40, 48))
    compress(ds, JPEG2000Lossless)
    data = bytearray(saved(ds, JPEG2000Lossless))
    at = data.index(b"\xff\x4f\xff\x51") + 8
    data[at : at + 4] = (60000).to_bytes(4, "big")
    with pytest.raises(InputError, match="60000 x 40 pixels"):
        read_image(bytes(data))


def test_a_decoder_that_panics_meets_a_damaged_file(monkeypatch):
    """The exception of a panic in Rust is no Exception: it would have ended the worker, or the replica."""
    ds = scan((4, 4), "uint16", Modality="MR")
    segment = b"\x10" + bytes(17)  # one byte too many
    places = (2, 64, 64 + len(segment))
    frame = b"".join(n.to_bytes(4, "little") for n in places).ljust(64, b"\0") + 2 * segment
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    data = saved(ds, RLELossless)
    with pytest.raises(InputError, match=r"damaged RLE Lossless.*PanicException"):
        read_image(data)
    monkeypatch.setattr(pydicom.pixels, "pixel_array", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        read_image(data)


def test_every_kind_of_damage_is_named():
    data = saved(scan())
    syntax = data.index(b"1.2.840.10008.1.2.1\0")
    unknown = data[:syntax] + b"1.2.840.10008.1.9.1\0" + data[syntax + 20 :]
    with pytest.raises(UnsupportedError, match="unknown transfer syntax; save it uncompressed"):
        probe(unknown)
    packed = deflated()
    with pytest.raises(InputError, match="cannot be inflated"):
        probe(packed[:400] + b"\xff" * 200 + packed[600:])
    ds = scan((40, 48))
    compress(ds, JPEG2000Lossless)
    whole = saved(ds, JPEG2000Lossless)
    frame = whole.index(b"\xff\x4f\xff\x51")
    with pytest.raises(InputError, match="frames cannot be told apart"):
        read_image(whole[: frame - 4] + b"\x07" + whole[frame - 3 :])
    with pytest.raises(InputError, match="damaged JPEG 2000"):
        read_image(whole[: frame + 200] + b"\xff" * 100 + whole[frame + 300 :])


def test_elements_of_messages_and_files_are_left_out_of_an_object():
    """Those of groups 0 and 2 have their own place in a file, and the writer refuses them elsewhere."""
    plain = saved(scan())
    at = plain.rindex(b"\xe0\x7f\x10\0OW")
    result = upscaled(plain[:at] + b"\x02\0\x16\0AE\x04\0HERE" + plain[at:])
    assert b"HERE" not in result
    assert opened(result).Rows == 20


def test_an_error_of_a_library_loses_its_text(monkeypatch):
    def gossip(*_, **__):
        raise ValueError(f"could not convert {PATIENT}")

    monkeypatch.setattr(pydicom.pixels, "pixel_array", gossip)
    said = complaint(partial(read_image, saved(scan())))
    assert "ValueError" in said
    assert "Muster" not in said


def test_a_warning_of_a_library_is_not_heard(monkeypatch, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    decode = pydicom.pixels.pixel_array

    def gossip(dataset):
        warnings.warn_explicit(PATIENT, UserWarning, "valuerep.py", 1, "pydicom.valuerep")
        logging.getLogger("pydicom").error(PATIENT)
        return decode(dataset)

    monkeypatch.setattr(pydicom.pixels, "pixel_array", gossip)
    read_image(saved(scan()))
    assert not recwarn.list
    assert not caplog.records


def test_damage_never_names_the_patient():
    data = saved(scan())
    complaints = [complaint(partial(read_image, data[:end])) for end in range(140, len(data), 97)]
    assert all(
        "damaged" in said or "cut short" in said or "no image" in said for said in complaints
    )
    assert "Muster" not in " ".join(complaints)
