"""EXIF, XMP and IPTC of pictures: what independent readers find in an enlarged file."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import ImageOps, IptcImagePlugin, PngImagePlugin

from rayscale.imaging import Handling, Image, convert_image, probe, read_image, write_image
from rayscale.imaging.containers import exif as blocks
from rayscale.imaging.containers import xmp
from rayscale.imaging.containers.ifd import Ifd
from rayscale.imaging.description import Description
from rayscale.imaging.scene import Scene

WIDTH, HEIGHT = 48, 32
XMP = b"""<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>
<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description rdf:about=''
 xmlns:tiff='http://ns.adobe.com/tiff/1.0/' xmlns:e='http://ns.adobe.com/exif/1.0/'
 xmlns:xmp='http://ns.adobe.com/xap/1.0/' xmlns:xmpGImg='http://ns.adobe.com/xap/1.0/g/img/'
 xmlns:GPano='http://ns.google.com/photos/1.0/panorama/' xmlns:drone-dji='http://www.dji.com/drone-dji/1.0/'
 tiff:Orientation="6" tiff:ImageWidth='48' e:PixelXDimension="48" GPano:FullPanoWidthPixels="96"
 GPano:CroppedAreaLeftPixels="24" drone-dji:RelativeAltitude="+80.20" drone-dji:CalibratedFocalLength="3666.50"
 drone-dji:DewarpData="2018-09-14;3713.25,3710.50,7.00,-8.50,-0.11,0.01">
 <xmp:Rating>5</xmp:Rating><e:PixelYDimension>32</e:PixelYDimension>
 <xmp:Thumbnails><rdf:Alt><rdf:li><xmpGImg:image>AAAA</xmpGImg:image></rdf:li></rdf:Alt></xmp:Thumbnails>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"""
IPTC = b"\x1c\x02\x78\x00\x08A bridge\x1c\x02\x74\x00\x03(c)"


def picture() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 5, y * 7, (x + y) * 3], -1).astype(np.uint8)


def camera(orientation: int = 6, order: str = "<") -> bytes:
    """A block as cameras write it: a maker note, a thumbnail, sub-directories; made without any library."""
    maker = b"MAKER\0" + bytes(range(60))
    little = blocks.Value
    exif: blocks.Tree = {
        36867: little(2, 20, b"2024:05:06 07:08:09\0"),
        blocks.MAKER_NOTE: little(7, len(maker), maker),
        37386: little(5, 1, struct.pack("<II", 45, 10)),
        37396: little(3, 4, struct.pack("<4H", 10, 8, 6, 4)),
        40962: little(3, 1, struct.pack("<H", WIDTH)),
        40963: little(3, 1, struct.pack("<H", HEIGHT)),
        41486: little(5, 1, struct.pack("<II", 4000, 3)),
        41487: little(5, 1, struct.pack("<II", 2000, 3)),
        41488: little(3, 1, struct.pack("<H", 2)),
    }
    gps: blocks.Tree = {
        1: little(2, 2, b"N\0"), 2: little(5, 3, struct.pack("<6I", 46, 1, 30, 1, 1525, 100)),
        3: little(2, 2, b"E\0"), 4: little(5, 3, struct.pack("<6I", 8, 1, 20, 1, 150, 100)),
    }  # fmt: skip
    first: blocks.Tree = {
        271: little(2, 6, b"Maker\0"),
        274: little(3, 1, struct.pack("<H", orientation)),
        282: little(5, 1, struct.pack("<II", 300, 1)),
        283: little(5, 1, struct.pack("<II", 150, 1)),
        296: little(3, 1, struct.pack("<H", 2)),
        blocks.EXIF_IFD: exif,
        blocks.GPS_IFD: gps,
    }
    head = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    block = head + blocks._directory(first, order, False, 8)
    # The thumbnail lies at the end, in a directory of its own.
    at = 8 + 2 + 12 * len(first)
    block = block[:at] + struct.pack(order + "I", len(block)) + block[at + 4 :]
    thumbnail: blocks.Tree = {
        513: little(4, 1, struct.pack("<I", len(block) + 30)),
        514: little(4, 1, struct.pack("<I", 9)),
    }
    return block + blocks._directory(thumbnail, order, False, len(block)) + b"THUMBNAIL"


def stored(container: str, block: bytes | None, packet: bytes | None = None) -> bytes:
    out = io.BytesIO()
    options: dict[str, object] = {}
    if block:
        options["exif"] = b"Exif\0\0" + block if container == "JPEG" else block
    if packet and container == "PNG":
        options["pnginfo"] = info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
    elif packet:
        options["xmp"] = packet
    Pillow.fromarray(picture()).save(out, container, **options)
    return out.getvalue()


def enlarged(data: bytes, factor: int = 2) -> bytes:
    image = read_image(data)
    pixels = image.pixels.repeat(factor, 0).repeat(factor, 1)
    dpi = image.dpi and (image.dpi[0] * factor, image.dpi[1] * factor)
    return write_image(replace(image, pixels=pixels, dpi=dpi))


def exiftool(data: bytes, tmp_path: Path) -> dict[str, object]:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed (Debian: libimage-exiftool-perl)")
    path = tmp_path / "file"
    path.write_bytes(data)
    made = subprocess.run(["exiftool", "-j", "-n", "-G1", "-u", str(path)], capture_output=True, check=False)  # fmt: skip
    found: dict[str, object] = json.loads(made.stdout)[0]
    return found


CONTAINERS = ["JPEG", "WEBP", "PNG", "TIFF"]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("container", ["JPEG", "WEBP", "PNG"])
def test_a_camera_file_keeps_what_it_says_and_tells_its_new_size(container, order, tmp_path):
    data = enlarged(stored(container, camera(6, order), XMP))
    opened = Pillow.open(io.BytesIO(data))
    assert opened.size == (64, 96)
    exif = opened.getexif()
    assert exif[271] == "Maker"
    assert exif[274] == 1
    assert (exif[282], exif[283]) == (300, 600)  # 150 and 300 once upright
    inner = exif.get_ifd(0x8769)
    assert inner[36867] == "2024:05:06 07:08:09"
    assert (inner[40962], inner[40963]) == (64, 96)
    assert (float(inner[41486]), float(inner[41487])) == pytest.approx((4000 / 3, 8000 / 3))
    # A box of 6 x 4 around (10, 8), turned by 90 degrees: x = 31 - 8.
    assert tuple(inner[37396]) == (46, 20, 8, 12)
    assert inner[37500] == b"MAKER\0" + bytes(range(60))
    gps = exif.get_ifd(0x8825)
    assert tuple(map(float, gps[2])) == (46, 30, 15.25)
    assert exif.get_ifd(1) == {}
    assert b"THUMBNAIL" not in data
    found = exiftool(data, tmp_path)
    assert found["IFD0:Orientation"] == 1
    assert found["XMP-tiff:Orientation"] == 1
    assert found["XMP-drone-dji:RelativeAltitude"] == "+80.20"
    assert found["GPS:GPSLatitude"] == pytest.approx(46.504236)
    assert not any("Thumbnail" in name for name in found)
    # The note is of a camera that is not.
    assert found.get("ExifTool:Warning") in (None, "[minor] Unrecognized MakerNotes")


def test_maker_notes_stay_where_they_were():
    source = camera(6)
    at = source.index(b"MAKER\0")
    for container in ("JPEG", "WEBP", "PNG"):
        data = enlarged(stored(container, source))
        head = data.index(b"II*\0")
        assert data[head + at : head + at + 6] == b"MAKER\0"


@pytest.mark.parametrize("container", CONTAINERS[:3])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_no_orientation_is_left(container, orientation):
    packet = XMP.replace(b'Orientation="6"', b'Orientation="%d"' % orientation)
    source = stored(container, camera(orientation), packet)
    expected = np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(source))))
    header, image = probe(source), read_image(source)
    assert (header.height, header.width) == expected.shape[:2]
    np.testing.assert_array_equal(image.pixels, expected)
    result = Pillow.open(io.BytesIO(write_image(image)))
    assert ImageOps.exif_transpose(result).size == result.size == expected.shape[1::-1]
    assert result.getexif().get(274, 1) == 1
    packet = result.info.get("xmp") or result.info["XML:com.adobe.xmp"].encode()
    assert b'Orientation="1"' in packet


def test_an_orientation_that_was_not_applied_stays():
    """XMP alone: nothing was turned, and whoever heeds it sees the same as before."""
    result = Pillow.open(io.BytesIO(enlarged(stored("JPEG", None, XMP))))
    assert result.size == (96, 64)
    assert b'Orientation="6"' in result.info["xmp"]


def test_xmp_follows_the_size():
    text = xmp.resized(XMP, (96, 64), (2, 2)).decode()
    for wanted in (
        "tiff:ImageWidth='96'", 'e:PixelXDimension="96"', "<e:PixelYDimension>64</e:PixelYDimension>",
        'GPano:FullPanoWidthPixels="192"', 'GPano:CroppedAreaLeftPixels="48"', "<xmp:Rating>5</xmp:Rating>",
        'drone-dji:CalibratedFocalLength="7333.00"', 'RelativeAltitude="+80.20"',
        'DewarpData="2018-09-14;7426.50,7421.00,14.00,-17.00,-0.11,0.01"', 'tiff:Orientation="6"',
    ):  # fmt: skip
        assert wanted in text
    assert "Thumbnails" not in text
    ElementTree.fromstring(text[text.index("<x:") : text.index("<?xpacket end")])


def test_a_gain_map_is_not_promised_any_more():
    packet = XMP.replace(b"xmlns:xmp=", b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" xmlns:xmp=')  # fmt: skip
    image = read_image(stored("JPEG", None, packet))
    assert any("gain map" in note for note in image.notes)
    assert b"hdrgm:Version" not in write_image(image)


def tiff(dtype: str, byteorder: str = "<", bigtiff: bool = False, note: bool = False) -> bytes:
    """A TIFF whose EXIF was put there by hand."""
    out = io.BytesIO()
    tifffile.imwrite(out, picture().astype(dtype), photometric="rgb", byteorder=byteorder, bigtiff=bigtiff, metadata=None)  # fmt: skip
    tree = blocks.tree_of(Ifd.first(camera(1)), (271, blocks.EXIF_IFD, blocks.GPS_IFD))
    if note:
        tree[blocks.EXIF_IFD] |= {blocks.MAKER_NOTE: blocks.Value(7, 4, b"note")}
    tree[700] = blocks.bytes_value(XMP)
    tree[33723] = blocks.bytes_value(IPTC, kind=7)
    return blocks.with_tags(out.getvalue(), tree)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True), (">", True)])
def test_a_tiff_keeps_exif_gps_xmp_and_iptc(dtype, order, big, tmp_path):
    data = enlarged(tiff(dtype, order, big))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert (file.byteorder, file.is_bigtiff, len(file.pages)) == (order, big, 1)
        page = file.pages[0]
        np.testing.assert_array_equal(page.asarray(), picture().repeat(2, 0).repeat(2, 1))
        exif, gps = page.tags[34665].value, page.tags[34853].value
        assert page.tags[271].value == "Maker"
        assert bytes(page.tags[700].value).startswith(b"<?xpacket")
        assert bytes(page.tags[33723].value) == IPTC
    assert exif["DateTimeOriginal"] == "2024:05:06 07:08:09"
    assert (exif["PixelXDimension"], exif["PixelYDimension"]) == (96, 64)
    assert exif["FocalLength"] == (45, 10)
    assert gps["GPSLatitude"] == (46, 1, 30, 1, 1525, 100)
    found = exiftool(data, tmp_path)
    if not big:  # whose GPS it does not look up
        assert found["GPS:GPSLongitude"] == pytest.approx(8.33375)
    assert found["XMP-xmp:Rating"] == 5
    assert found["IPTC:Caption-Abstract"] == "A bridge"
    assert not any("Warning" in name for name in found)


def test_a_maker_note_of_a_tiff_is_left_out_and_told():
    assert not read_image(tiff("uint16")).notes
    image = read_image(tiff("uint16", note=True))
    assert any("maker note" in text for text in image.notes)
    with tifffile.TiffFile(io.BytesIO(write_image(image))) as file:
        assert "MakerNote" not in file.pages[0].tags[34665].value


def test_iptc_of_a_jpeg_survives():
    body = b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\x02ab" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC  # fmt: skip
    plain = stored("JPEG", None)
    data = plain[:2] + b"\xff\xed" + struct.pack(">H", len(body) + 2) + body + plain[2:]
    found = IptcImagePlugin.getiptcinfo(Pillow.open(io.BytesIO(enlarged(data))))
    assert found[(2, 120)] == b"A bridge"


@pytest.mark.parametrize("container", ["JPEG", "WEBP", "PNG", "TIFF"])
def test_stripped_files_keep_what_the_pixels_need(container):
    icc = b"profile" * 20
    if container == "TIFF":
        image = read_image(tiff("uint8"), handling=Handling(metadata="strip"))
    else:
        image = read_image(stored(container, camera(6), XMP), handling=Handling(metadata="strip"))
    dpi = image.dpi if container != "TIFF" else (300.0, 150.0)
    data = write_image(replace(image, icc=icc, dpi=dpi))
    for gone in (b"Maker", b"2024:05:06", b"RelativeAltitude", b"A bridge"):
        assert gone not in data
    again = read_image(data)
    assert again.icc == icc
    if container != "PNG":  # its EXIF does not tell the resolution of the picture
        assert again.dpi == pytest.approx(dpi)


def test_a_damaged_block_is_left_out_and_told():
    source = stored("PNG", camera(6)[:60])
    image = read_image(source)
    assert image.description is None
    assert any("EXIF" in note for note in image.notes)


def test_a_hostile_block_takes_no_time_and_no_memory():
    """Directories that point at each other, and entries that all claim the same bytes."""
    out = io.BytesIO()
    tifffile.imwrite(out, picture(), photometric="rgb", metadata=None)
    tree: blocks.Tree = {
        blocks.EXIF_IFD: {tag: blocks.bytes_value(bytes(40_000)) for tag in range(50_000, 50_200)}
    }
    image = read_image(blocks.with_tags(out.getvalue(), tree))
    assert len(image.description.exif) < 5 << 20
    loop = bytearray(blocks.new_block({blocks.EXIF_IFD: {40965: {40965: blocks.Value(4, 1, bytes(4))}}}))  # fmt: skip
    loop[-8:-4] = struct.pack("<I", 8)
    assert blocks.tree_of(Ifd.first(bytes(loop))) is not None


def test_sizes_beyond_a_short_become_long():
    block = blocks.resized(camera(1), (70_000, 66_000), (70_000 / WIDTH, 66_000 / HEIGHT))
    exif = Pillow.Exif()
    exif.load(block)
    assert (exif.get_ifd(0x8769)[40962], exif.get_ifd(0x8769)[40963]) == (70_000, 66_000)


def test_an_image_without_a_file_has_no_description():
    assert Image(picture()).description is None


@pytest.mark.parametrize("target", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("source", CONTAINERS)
def test_a_conversion_keeps_what_the_target_can_hold(source, target, tmp_path):
    data = tiff("uint8", note=True) if source == "TIFF" else stored(source, camera(1), XMP)
    image = convert_image(read_image(data), target)
    written = write_image(image)
    if target == "tiff":
        with tifffile.TiffFile(io.BytesIO(written)) as file:
            tags = file.pages[0].tags
            assert tags[34665].value["DateTimeOriginal"] == "2024:05:06 07:08:09"
            assert tags[34853].value["GPSLatitude"] == (46, 1, 30, 1, 1525, 100)
            assert tags[271].value == "Maker"
    else:
        exif = Pillow.open(io.BytesIO(written)).getexif()
        assert exif.get_ifd(0x8769)[36867] == "2024:05:06 07:08:09"
        assert tuple(map(float, exif.get_ifd(0x8825)[2])) == (46, 30, 15.25)
        assert exif[271] == "Maker"
    assert b"<xmp:Rating>5</xmp:Rating>" in written
    assert any("maker note" in note for note in image.notes) == ("TIFF" in (source, target.upper()))
    assert any("IPTC" in note for note in image.notes) == ((source, target) == ("TIFF", "webp"))


def test_a_conversion_tells_what_has_no_place():
    image = read_image(stored("PNG", None))
    hdr = replace(image, encoding={"colour": {"cICP": bytes([9, 16, 0, 1]), "sBIT": b"888"}})
    assert ["cICP" in note for note in convert_image(hdr, "webp").notes] == [True]
    large = replace(image, description=Description((WIDTH, HEIGHT), xmp=XMP + b" " * 70_000))
    made = convert_image(large, "jpeg")
    assert ["XMP" in note for note in made.notes] == [True]
    assert read_image(write_image(made)).description is None


def test_colours_multiplied_by_alpha_are_divided_where_that_is_not_said():
    alpha = np.array([[0, 1, 64, 255]], np.uint8)
    plain = np.array([[[0, 0, 0], [255, 0, 255], [200, 100, 50], [9, 8, 7]]], np.uint8)
    multiplied = np.round(plain * (alpha[..., None] / 255.0)).astype(np.uint8)
    out = io.BytesIO()
    tifffile.imwrite(out, np.dstack([multiplied, alpha]), photometric="rgb", extrasamples=["assocalpha"])  # fmt: skip
    written = write_image(convert_image(read_image(out.getvalue()), "png"))
    opened = np.asarray(Pillow.open(io.BytesIO(written))).astype(int)
    np.testing.assert_array_equal(opened[..., 3], alpha)
    assert np.abs(opened[..., :3] - plain).max() <= 2


def test_a_geotiff_tells_what_it_does_not_keep(tmp_path):
    pytest.importorskip("rasterio")
    out = io.BytesIO()
    tifffile.imwrite(out, picture()[..., 0].astype(np.float32), metadata=None)
    tree = blocks.tree_of(Ifd.first(camera(1)), (blocks.EXIF_IFD, blocks.GPS_IFD))
    data = blocks.with_tags(out.getvalue(), tree | {700: blocks.bytes_value(XMP)})
    (tmp_path / "thermal.tif").write_bytes(data)
    with Scene(tmp_path / "thermal.tif") as scene:
        for notes in (scene.notes, read_image(data).notes):
            assert ["EXIF, GPS, XMP" in note for note in notes] == [True]


def test_a_hostile_packet_takes_no_time():
    """Many structures, many openings without an end, and many prefixes: each once was the square of the packet."""
    for flood in (
        b"<xmp:Thumbnails>x</xmp:Thumbnails>" * 20_000,
        b"<xmp:Thumbnails>" * 40_000,
        b"".join(b" xmlns:p%d='http://ns.adobe.com/xap/1.0/'" % n for n in range(10_000)),
    ):
        made = xmp.resized(XMP.replace(b"<xmp:Rating>", flood + b"<xmp:Rating>"), (96, 64), (2, 2))
        assert b'"96"' in made
