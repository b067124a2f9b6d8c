"""WebP against Pillow as independent reader and writer, and against files made chunk by chunk."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms, ImageOps
from tests.imaging.pictures import smooth

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging import Image, probe, read_image, sniff, write_image

RNG = np.random.default_rng(8)


def photo(height: int = 40, width: int = 57) -> np.ndarray:
    return smooth(height, width)


def saved(pixels: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(pixels).save(out, "WEBP", **options)
    return out.getvalue()


def opened(data: bytes) -> Pillow.Image:
    return Pillow.open(io.BytesIO(data))


def chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def riff(*chunks: bytes) -> bytes:
    return chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def canvas(width: int, height: int, flags: int = 0) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return chunk(b"VP8X", bytes([flags, 0, 0, 0]) + sides)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (7, 2), (40, 57)])
def test_reads_what_pillow_writes(lossless, alpha, size):
    pixels = photo(*size)
    if alpha:
        pixels = np.dstack([pixels, RNG.integers(0, 200, size, dtype=np.uint8)])
    data = saved(pixels, lossless=lossless, exact=True)
    expected = np.asarray(opened(data))
    image = read_image(data)
    np.testing.assert_array_equal(image.pixels, expected[..., :3])
    if alpha:
        np.testing.assert_array_equal(image.alpha, expected[..., 3])
    else:
        assert image.alpha is None
    header = probe(data)
    assert (header.height, header.width, header.channels, header.bits) == (*size, 3, 8)
    assert (header.alpha, header.pages, header.container) == (alpha, 1, sniff(data))
    assert image.encoding == {"lossless": lossless}


@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_stays_lossless_and_so_do_pictures_of_other_formats(alpha):
    pixels = RNG.integers(0, 256, (23, 31, 3), dtype=np.uint8)
    mask = RNG.integers(0, 2, (23, 31), dtype=np.uint8) * 255 if alpha else None
    written = write_image(Image(pixels, "webp", mask))
    back = read_image(written)
    np.testing.assert_array_equal(back.pixels, pixels)  # under transparent pixels too
    assert write_image(back) == written
    stored = np.asarray(opened(written))
    np.testing.assert_array_equal(stored[..., :3], pixels)
    if mask is not None:
        np.testing.assert_array_equal(back.alpha, mask)
        np.testing.assert_array_equal(stored[..., 3], mask)


def test_lossy_stays_lossy_at_high_quality():
    source = read_image(saved(photo(), quality=60))
    written = write_image(source)
    back = read_image(written)
    assert back.encoding == {"lossless": False}
    assert written == saved(source.pixels, quality=95, exact=True)
    assert np.abs(back.pixels.astype(int) - source.pixels).mean() < 2


def test_lossy_alpha_is_exact():
    mask = RNG.integers(0, 256, (40, 57), dtype=np.uint8)
    image = Image(photo(), "webp", mask, encoding={"lossless": False})
    np.testing.assert_array_equal(read_image(write_image(image)).alpha, mask)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_dropped(orientation):
    exif = Pillow.Exif()
    exif[274], exif[282], exif[283], exif[296] = orientation, 300.0, 200.0, 2
    data = saved(photo(), exif=exif, lossless=True)
    image = read_image(data)
    expected = np.asarray(ImageOps.exif_transpose(opened(data)))
    np.testing.assert_array_equal(image.pixels, expected)
    header = probe(data)
    assert (header.height, header.width) == expected.shape[:2]
    assert image.dpi == ((200, 300) if orientation >= 5 else (300, 200))
    assert opened(write_image(image)).getexif().get(274, 1) == 1


def test_exif_may_have_the_prefix_of_jpeg_and_may_be_damaged():
    exif = Pillow.Exif()
    exif[274] = 6
    plain = saved(photo(), lossless=True)
    picture = plain[12:]
    for body, upright in ((b"Exif\0\0" + exif.tobytes()[6:], False), (b"junk" * 9, True)):
        data = riff(canvas(57, 40, 8), picture, chunk(b"EXIF", body))
        assert ((probe(data).width, probe(data).height) == (57, 40)) is upright
        assert read_image(data).pixels.shape == ((40, 57, 3) if upright else (57, 40, 3))


def test_profile_resolution_and_remarks_survive():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Pillow.Exif()
    exif[315] = "Erika Mustermann"
    image = read_image(saved(photo(), icc_profile=profile, exif=exif))
    assert image.icc == profile
    assert image.text == {"Artist": "Erika Mustermann"}
    written = write_image(image.with_text(rayscale="Übersee").with_pixels(photo()))
    again = opened(written)
    assert again.info["icc_profile"] == profile
    assert again.getexif()[315] == "Erika Mustermann"
    assert read_image(written).text["ImageDescription"] == "rayscale: Übersee"
    wide = read_image(write_image(Image(photo(), "webp", dpi=(240.5, 120.0))))
    assert wide.dpi == pytest.approx((240.5, 120))
    assert wide.text == {}


def test_an_animation_is_refused_and_probe_counts_its_frames():
    frames = [Pillow.fromarray(photo() // (n + 1)) for n in range(4)]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:])
    header = probe(out.getvalue())
    assert (header.pages, header.width, header.height) == (4, 57, 40)
    with pytest.raises(UnsupportedError, match="animation of 4 frames"):
        read_image(out.getvalue())


def test_bombs_are_refused_by_their_headers(monkeypatch):
    monkeypatch.setattr("imagecodecs.webp_decode", lambda *_, **__: pytest.fail("was decoded"))
    largest = struct.pack("<BI", 0x2F, 0x3FFF << 14 | 0x3FFF)
    with pytest.raises(TooLargeError, match="16384 x 16384"):
        read_image(riff(chunk(b"VP8L", largest)))
    key_frame = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 0x3FFF, 0x3FFF)
    with pytest.raises(TooLargeError, match="16383 x 16383"):
        read_image(riff(chunk(b"VP8 ", key_frame)))
    small = saved(photo(), lossless=True)[12:]
    bomb = riff(canvas(1 << 24, 1 << 24), small)
    for function in (probe, read_image):
        with pytest.raises(InputError, match=r"canvas of 16777216 x 16777216.*57 x 40"):
            function(bomb)
    animation = riff(canvas(1 << 24, 1 << 24, 2), chunk(b"ANMF", bytes(24)))
    with pytest.raises(TooLargeError, match="16777216 x 16777216"):
        read_image(animation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:15], "cut short after 15 bytes"),
        (lambda d: d[: len(d) // 2], "cut short: .* promised"),
        (lambda d: riff(chunk(b"EXIF", b"")), "begins with the chunk"),
        (lambda d: riff(canvas(57, 40)), "no pixel data"),
        (lambda d: riff(chunk(b"VP8 ", b"\1" + bytes(20))), "key frame"),
        (lambda d: riff(chunk(b"VP8L", bytes(20))), "signature"),
        (lambda d: riff(d[12:16] + struct.pack("<I", 1 << 30) + d[20:]), "needs 1073741824 bytes"),
        (lambda d: riff(chunk(b"VP8X", b"123")), "header of 3 bytes"),
        (lambda d: riff(d[12:], b"junk\0\0\0\0" * 100_000), "more than 100000 chunks"),
        (lambda d: riff(chunk(b"VP8L", d[20:60])), "damaged"),
    ],
)
def test_damage_is_named(change, message):
    with pytest.raises(InputError, match=message):
        read_image(change(saved(photo(), lossless=True)))


def test_what_webp_cannot_hold_is_refused():
    for pixels in (np.zeros((2, 2, 3), np.uint16), np.zeros((2, 2, 1), np.uint8)):
        with pytest.raises(UnsupportedError, match="8-bit RGB"):
            write_image(Image(pixels, "webp"))
