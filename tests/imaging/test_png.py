"""PNG against Pillow and imagecodecs as independent readers and writers."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms, PngImagePlugin

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging import Image, probe, read_image, write_image
from rayscale.imaging.containers import png

RNG = np.random.default_rng(1)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = [
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
]  # fmt: skip


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def insert(png: bytes, *chunks: bytes) -> bytes:
    """Put chunks right after IHDR."""
    return png[:33] + b"".join(chunks) + png[33:]


def saved(picture: Pillow.Image, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", **options)
    return out.getvalue()


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (7, 1), (23, 31)])
def test_what_is_written_reads_back_and_imagecodecs_agrees(dtype, channels, alpha, size):
    pixels = noise(*size, channels, dtype=dtype)
    mask = noise(*size, dtype=dtype) if alpha else None
    data = write_image(Image(pixels, alpha=mask))
    back = read_image(data)
    assert back.pixels.dtype == dtype
    np.testing.assert_array_equal(back.pixels, pixels)
    expected = pixels if mask is None else np.concatenate([pixels, mask[..., None]], axis=2)
    np.testing.assert_array_equal(imagecodecs.png_decode(data).reshape(expected.shape), expected)
    if mask is None:
        assert back.alpha is None
    else:
        np.testing.assert_array_equal(back.alpha, mask)
    header = probe(data)
    assert (header.height, header.width, header.channels) == (*size, channels)
    assert (header.bits, header.alpha) == (back.bits, alpha)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_takes_as_many_bytes_whole_as_by_libpng(monkeypatch, dtype):
    """Smooth with some noise, as enlarged photographs are; the two ways to write hold the same pixels and metadata."""
    y, x = np.mgrid[:200, :300]
    waves = np.stack([np.sin(y / (9 + i)) * np.cos(x / (7 + i)) for i in range(3)], axis=-1)
    waves += np.random.default_rng(2).normal(0, 0.01, waves.shape)
    image = Image(((waves + 1.1) / 2.2 * np.iinfo(dtype).max).astype(dtype), dpi=(300, 300))
    whole = write_image(image)
    monkeypatch.setattr(png, "_AT_ONCE", image.pixels.nbytes - 1)
    large = write_image(image)
    assert whole != large
    assert len(whole) <= 1.1 * len(large)
    for data in (whole, large):
        np.testing.assert_array_equal(imagecodecs.png_decode(data), image.pixels)
    for kind in (b"IHDR", b"pHYs"):
        assert _chunks(whole)[kind] == _chunks(large)[kind]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_reads_what_pillow_writes(mode):
    picture = Pillow.fromarray(noise(19, 27, 3)).convert(mode)
    image = read_image(saved(picture))
    wanted = {"1": "L", "P": "RGB"}.get(mode, mode)
    expected = np.asarray(picture.convert(wanted)).reshape(19, 27, -1)
    got = image.pixels
    if image.alpha is not None:
        got = np.concatenate([got, image.alpha[..., None]], axis=2)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_spans_the_full_range(bits):
    levels = np.arange(1 << bits, dtype=np.uint8)
    rows = np.unpackbits(levels[:, None], axis=1)[:, -bits:].reshape(1, -1)
    packed = np.packbits(rows, axis=1).tobytes()
    ihdr = struct.pack(">IIBBBBB", len(levels), 1, bits, 0, 0, 0, 0)
    data = (
        SIGNATURE
        + chunk(b"IHDR", ihdr)
        + chunk(b"IDAT", zlib.compress(b"\0" + packed))
        + chunk(b"IEND", b"")
    )
    image = read_image(data)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.ravel().tolist() == [255 * v // ((1 << bits) - 1) for v in levels.tolist()]


def test_transparent_palette_entry_becomes_alpha():
    picture = Pillow.fromarray(noise(16, 16, 3)).quantize(8)
    image = read_image(saved(picture, transparency=3))
    indices = np.asarray(picture)
    np.testing.assert_array_equal(image.alpha, np.where(indices == 3, 0, 255))
    np.testing.assert_array_equal(image.pixels, np.asarray(picture.convert("RGB")))


def test_transparent_grey_becomes_alpha():
    values = noise(16, 16) // 16 * 16
    image = read_image(saved(Pillow.fromarray(values), transparency=32))
    np.testing.assert_array_equal(image.alpha, np.where(values == 32, 0, 255))
    assert probe(saved(Pillow.fromarray(values), transparency=32)).alpha


def interlaced(pixels: np.ndarray) -> bytes:
    """An Adam7 file, unfiltered, of 8 or 16 bit grey or RGB."""
    height, width, channels = pixels.shape
    stream = b""
    for left, top, across, down in ADAM7:
        part = pixels[top::down, left::across]
        if part.size:
            big = part.astype(part.dtype.newbyteorder(">"))
            stream += b"".join(b"\0" + row.tobytes() for row in big)
    ihdr = struct.pack(
        ">IIBBBBB", width, height, pixels.dtype.itemsize * 8, {1: 0, 3: 2}[channels], 0, 0, 1
    )
    return (
        SIGNATURE
        + chunk(b"IHDR", ihdr)
        + chunk(b"IDAT", zlib.compress(stream))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 9), (16, 16), (21, 13)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_interlaced(size, channels, dtype):
    pixels = noise(*size, channels, dtype=dtype)
    data = interlaced(pixels)
    np.testing.assert_array_equal(read_image(data).pixels, pixels)
    if dtype == np.uint8:
        independent = np.asarray(Pillow.open(io.BytesIO(data))).reshape(pixels.shape)
        np.testing.assert_array_equal(independent, pixels)


def test_interlaced_cut_short_is_refused():
    data = interlaced(noise(16, 16, 3))
    at = data.index(b"IDAT")
    (length,) = struct.unpack_from(">I", data, at - 4)
    plain = zlib.decompress(data[at + 4 : at + 4 + length])
    shorter = data[: at - 4] + chunk(b"IDAT", zlib.compress(plain[:-40])) + chunk(b"IEND", b"")
    with pytest.raises(InputError, match="cut short"):
        read_image(shorter)


def test_profile_resolution_and_text_survive():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", "Jérôme")
    notes.add_text("Comment", "x" * 5000, zip=True)
    notes.add_itxt("Title", "画像", zip=True)
    data = saved(
        Pillow.fromarray(noise(8, 9, 3)), icc_profile=profile, dpi=(300, 150), pnginfo=notes
    )
    image = read_image(data)
    assert image.icc == profile
    assert image.dpi == pytest.approx((300, 150), abs=0.02)
    assert image.text == {"Author": "Jérôme", "Comment": "x" * 5000, "Title": "画像"}

    written = write_image(image.with_text(**{"rayscale.model": "edsr-baseline"}))
    again = Pillow.open(io.BytesIO(written))
    again.load()
    assert again.info["icc_profile"] == profile
    assert again.info["dpi"] == pytest.approx((300, 150), abs=0.02)
    assert again.text == {**image.text, "rayscale.model": "edsr-baseline"}
    # What was read once does not drift when it is read and written again.
    assert write_image(read_image(written)) == written


def test_colour_chunks_are_kept():
    gamma = struct.pack(">I", 45455)
    data = insert(saved(Pillow.fromarray(noise(4, 4, 3))), chunk(b"gAMA", gamma))
    assert Pillow.open(io.BytesIO(write_image(read_image(data)))).info["gamma"] == 0.45455


def test_exif_orientation_is_applied_and_dropped():
    picture = Pillow.fromarray(noise(6, 9, 3))
    exif = Pillow.Exif()
    exif[274] = 6
    data = saved(picture, exif=exif, dpi=(200, 100))
    image = read_image(data)
    np.testing.assert_array_equal(image.pixels, np.asarray(picture.transpose(Pillow.ROTATE_270)))
    assert (probe(data).width, probe(data).height) == (6, 9)
    assert image.dpi == pytest.approx((100, 200), abs=0.02)
    assert Pillow.open(io.BytesIO(write_image(image))).getexif().get(274, 1) == 1


def test_animation_is_refused_and_probe_counts_frames():
    frames = [Pillow.fromarray(noise(5, 5, 3)) for _ in range(4)]
    data = saved(frames[0], save_all=True, append_images=frames[1:])
    assert probe(data).pages == 4
    with pytest.raises(UnsupportedError, match="4 frames"):
        read_image(data)


@pytest.mark.parametrize(
    "bad",
    [
        chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(5 << 20))),
        chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(5 << 20))),
        chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(5 << 20))),
    ],
)
def test_metadata_bombs_are_refused(bad):
    with pytest.raises(TooLargeError, match="4194304 bytes"):
        read_image(insert(saved(Pillow.fromarray(noise(4, 4, 3))), bad))


def test_text_that_the_standard_does_not_allow_is_left_out():
    plain = saved(Pillow.fromarray(noise(4, 4, 3)))
    chunks = [(b"tEXt", b"k" * 80 + b"\0long"), (b"tEXt", b"\0none"), (b"tEXt", b"nul\0a\0b")]
    image = read_image(insert(plain, b"".join(chunk(*each) for each in chunks)))
    assert image.text == {"nul": "ab"}
    assert Pillow.open(io.BytesIO(write_image(image))).info["nul"] == "ab"


def test_xmp_stays_where_readers_look_for_it():
    packet = "<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    plain = saved(Pillow.fromarray(noise(4, 4, 3)))
    body = b"XML:com.adobe.xmp\0\0\0\0\0" + packet.encode()
    written = write_image(read_image(insert(plain, chunk(b"iTXt", body))))
    assert Pillow.open(io.BytesIO(written)).info["xmp"].decode() == packet


def test_many_small_texts_share_one_limit():
    bad = [chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(1 << 20))) for i in range(6)]
    with pytest.raises(TooLargeError, match="metadata"):
        read_image(insert(saved(Pillow.fromarray(noise(4, 4, 3))), *bad))


def test_a_flood_of_empty_texts_is_refused():
    data = saved(Pillow.fromarray(noise(4, 4, 3)))
    with pytest.raises(TooLargeError, match="metadata"):
        read_image(insert(data, chunk(b"tEXt", b"a\0") * 70_000))


def test_pixel_data_too_small_for_the_header_is_refused_at_once():
    ihdr = struct.pack(">IIBBBBB", 8000, 8000, 8, 2, 0, 0, 0)
    data = (
        SIGNATURE + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    with pytest.raises(InputError, match="cannot hold 8000 x 8000"):
        read_image(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:20], "cut short"),
        (lambda d: d[:-12], "without an end chunk"),
        (lambda d: d.replace(b"\r\n", b"\n", 1), "text mode"),
        (lambda d: d[:60] + bytes([d[60] ^ 1]) + d[61:], "checksum of chunk IDAT"),
        (lambda d: insert(d, chunk(b"CgBI", b"\0\0\0\0")), "CgBI"),
        (lambda d: d[:33] + chunk(b"IEND", b""), "no pixel data"),
    ],
)
def test_damage_is_named(change, message):
    data = saved(Pillow.fromarray(noise(20, 20, 3)))
    with pytest.raises(InputError, match=message):
        read_image(change(data))


def test_what_png_cannot_hold_is_refused():
    with pytest.raises(UnsupportedError, match="the image has 7"):
        write_image(Image(noise(4, 4, 7)))
    with pytest.raises(InputError, match="1 to 79"):
        write_image(Image(noise(4, 4, 3), text={"": "x"}))
    with pytest.raises(InputError, match="NUL"):
        write_image(Image(noise(4, 4, 3), text={"a": "x\0y"}))


def _chunks(data: bytes) -> dict[bytes, bytes]:
    found, at = {}, 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found[kind] = data[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def _with(data: bytes, *chunks: tuple[bytes, bytes], damaged: bool = False) -> bytes:
    """``data`` with chunks after IHDR."""
    parts = b"".join(
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body) ^ damaged)
        for kind, body in chunks
    )
    return data[:33] + parts + data[33:]


BASE = np.random.default_rng(3).integers(0, 256, (6, 9, 3), np.uint8)
HDR = {
    b"cICP": bytes([9, 16, 0, 1]), b"mDCV": bytes(range(24)), b"cLLI": bytes(range(8)), b"gAMA": struct.pack(">I", 45455),
    b"cHRM": bytes(range(32)), b"sBIT": bytes([10, 10, 10]), b"bKGD": bytes([0, 9, 0, 8, 0, 7]),
}  # fmt: skip


def test_chunks_about_the_values_are_kept_byte_for_byte():
    pixels = np.full((4, 5, 3), 40_000, np.uint16)
    image = read_image(_with(write_image(Image(pixels)), *HDR.items()))
    found = _chunks(write_image(image.with_pixels(pixels.repeat(2, 0).repeat(2, 1))))
    assert {kind: found.get(kind) for kind in HDR} == HDR


def test_chunks_about_the_values_follow_what_a_palette_becomes():
    picture = Pillow.new("P", (6, 6), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    data = saved(picture, transparency=b"\x00\xff")
    image = read_image(_with(data, (b"sBIT", bytes([5, 6, 5]))))
    assert _chunks(write_image(image))[b"sBIT"] == bytes([5, 6, 5, 8])
    at = data.index(b"IDAT") - 4
    body = struct.pack(">I", 1) + b"bKGD\1" + struct.pack(">I", zlib.crc32(b"bKGD\1"))
    written = write_image(read_image(data[:at] + body + data[at:]))
    assert _chunks(written)[b"bKGD"] == struct.pack(">3H", 200, 100, 50)
    assert Pillow.open(io.BytesIO(written)).mode == "RGBA"


@pytest.mark.parametrize("kind", [b"tEXt", b"iCCP", b"gAMA", b"eXIf", b"prVt"])
def test_a_wrong_checksum_of_an_ancillary_chunk_is_noted(kind):
    data = write_image(Image(BASE))
    image = read_image(_with(data, (kind, b"Title\0wrong"), damaged=True))
    np.testing.assert_array_equal(image.pixels, BASE)
    assert [note for note in image.notes if f"checksum of chunk {kind.decode()}" in note]
    assert b"wrong" not in write_image(image)


@pytest.mark.parametrize("kind", [b"tRNS", b"PLTE", b"IDAT"])
def test_a_wrong_checksum_of_a_chunk_that_makes_the_picture_is_refused(kind):
    with pytest.raises(InputError, match=f"checksum of chunk {kind.decode()}"):
        read_image(_with(write_image(Image(BASE)), (kind, bytes(6)), damaged=True))


@pytest.mark.parametrize("kind", ["exif", "APP1"])
def test_raw_profiles_of_imagemagick_become_chunks(kind):
    exif = Pillow.Exif()
    exif[274], exif[271] = 6, "Maker"
    block = b"Exif\0\0" + exif.tobytes()[6:]
    profile = f"\nexif\n{len(block):8}\n{block.hex()}\n"
    info = PngImagePlugin.PngInfo()
    info.add_text(f"Raw profile type {kind}", profile, zip=True)
    info.add_text("exif:Orientation", "6")
    data = saved(Pillow.fromarray(BASE), pnginfo=info)
    image = read_image(data)
    assert image.pixels.shape[:2] == BASE.shape[1::-1]
    result = Pillow.open(io.BytesIO(write_image(image)))
    assert result.getexif()[271] == "Maker"
    assert result.getexif()[274] == 1
    assert "Orientation" not in str(result.text)
    assert "Raw profile" not in str(result.text)
