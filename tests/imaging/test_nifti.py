"""NIfTI against nibabel: the world coordinates of the corners must not move, nor any field that says what the values are."""

from __future__ import annotations

import gzip
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging import Image, Provenance, probe, read_image, sniff, write_image
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.options import Options
from rayscale.resampling import enlarge

nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")

RNG = np.random.default_rng(6)
PROVENANCE = Provenance("edsr/3", "0f" * 32, {"scale": 2})
# Oblique and anisotropic, so that a mixed-up axis or spacing shows.
TURN = nibabel.eulerangles.euler2mat(0.3, -0.2, 0.5)
AFFINE = nibabel.affines.from_matvec(TURN @ np.diag([0.9, 1.3, 2.4]), [-30.5, 12.25, 7.0])


def volume(*shape: int, dtype="int16", cls=nibabel.Nifti1Image, low=-50, high=900):
    values = RNG.integers(low, high, shape).astype(dtype)
    image = cls(values, AFFINE)
    image.set_data_dtype(dtype)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 2)
    return image


def saved(image) -> bytes:
    return image.to_bytes()


def opened(data: bytes):
    cls = nibabel.Nifti2Image if data[4:8] == b"n+2\0" else nibabel.Nifti1Image
    return cls.from_bytes(data)


def upscaled(data: bytes, scale: int = 2) -> bytes:
    image = Upscaler(create_model("bicubic", scale=scale), Options(scale=scale)).upscale(
        read_image(data)
    )
    return write_image(image, PROVENANCE)


def corners(image, affine) -> np.ndarray:
    """World coordinates of the outer corners in the plane, and of the centres of the first and last slice."""
    width, height, slices = image.shape[:3]
    return np.array(
        [
            affine @ [x, y, z, 1]
            for x in (-0.5, width - 0.5)
            for y in (-0.5, height - 0.5)
            for z in (0, slices - 1)
        ]
    )


@pytest.mark.parametrize("cls", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("scale", [2, 3])
def test_corners_keep_their_world_coordinates(cls, scale):
    before = volume(9, 7, 5, cls=cls)
    after = opened(upscaled(saved(before), scale))
    assert type(after) is cls
    assert after.shape == (9 * scale, 7 * scale, 5)
    for form in ("get_sform", "get_qform"):
        old, code = getattr(before.header, form)(coded=True)
        new, new_code = getattr(after.header, form)(coded=True)
        assert new_code == code
        np.testing.assert_allclose(corners(after, new), corners(before, old), atol=1e-5)
    np.testing.assert_allclose(
        after.header.get_zooms(), np.array(before.header.get_zooms()) / [scale, scale, 1], rtol=1e-6
    )


def test_without_any_form_the_centre_stays_the_origin():
    before = volume(9, 7, 5)
    before.header["sform_code"] = before.header["qform_code"] = 0
    data = saved(before)
    after = opened(upscaled(data))
    before = opened(data)
    np.testing.assert_allclose(corners(after, after.affine), corners(before, before.affine))


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_slice_is_enlarged_in_stored_values(dtype, order):
    image = volume(8, 6, 3, dtype=dtype, low=0, high=120)
    image = nibabel.Nifti1Image(
        image.dataobj, AFFINE, nibabel.Nifti1Header(endianness=order), dtype=dtype
    )
    data = saved(image)
    stored = np.asarray(image.dataobj)
    assert probe(data).slices == 3
    np.testing.assert_array_equal(read_image(data).pixels[..., 0], stored.T)
    after = opened(upscaled(data))
    assert after.header.endianness == order
    assert after.get_data_dtype().newbyteorder("=") == np.dtype(dtype)
    expected = enlarge(stored.astype(np.float64), 2)
    if dtype.startswith(("int", "uint")):
        expected = np.clip(expected, np.iinfo(dtype).min, np.iinfo(dtype).max)
    got = np.asarray(after.dataobj, np.float64)
    assert np.abs(got - expected).max() <= (1e-3 if dtype.startswith("float") else 1)


def test_what_the_values_mean_is_kept():
    before = volume(6, 5, 4, 3)
    header = before.header
    header.set_xyzt_units("mm", "sec")
    header["pixdim"][4] = 2.5
    header["cal_max"], header["descrip"], header["intent_name"] = 700, b"a scan", b"bold"
    header.set_dim_info(slice=2)
    header["slice_code"] = 3
    header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"first remark"))
    data = bytearray(saved(before))
    struct.pack_into("<2f", data, 112, 0.5, -3)
    data = bytes(data)
    result = upscaled(data)
    before, after = opened(data), opened(result)
    # nibabel applies slope and intercept and forgets them; they lie at byte 112.
    assert result[112:120] == data[112:120] == struct.pack("<2f", 0.5, -3)
    for name in (
        "xyzt_units", "cal_max", "descrip", "intent_name", "dim_info",
        "slice_code", "datatype",
    ):  # fmt: skip
        assert after.header[name] == before.header[name], name
    assert after.shape == (12, 10, 4, 3)
    assert after.header["pixdim"][4] == 2.5
    contents = [extension.get_content() for extension in after.header.extensions]
    assert contents[0] == b"first remark"
    for word in (b"edsr/3", b"0f" * 32, b"0.1% to 99.9% of the values of the volume"):
        assert word in contents[1]


def test_a_nan_stays_one_voxel_and_spoils_none():
    values = np.full((8, 8, 2), 3.0, np.float32)
    values[2, 5, 1] = np.nan
    got = np.asarray(opened(upscaled(saved(nibabel.Nifti1Image(values, AFFINE)))).dataobj)
    assert np.isnan(got[4:6, 10:12, 1]).all()
    assert np.isnan(got).sum() == 4
    assert (got[~np.isnan(got)] == 3).all()


def test_eight_bit_volumes_compute_in_float32_too():
    assert read_image(saved(volume(5, 5, 2, dtype="uint8", low=0, high=200))).levels.bits > 8


def test_gzip_in_and_out():
    data = gzip.compress(saved(volume(8, 6, 3)))
    assert sniff(data[:1024]) == probe(data).container == "nifti-gz"
    result = upscaled(data)
    assert result == upscaled(data)  # no time in the gzip header
    image = read_image(gzip.decompress(result))
    assert image.container == "nifti"
    np.testing.assert_array_equal(image.pixels, read_image(result).pixels)
    # The other ending is only another wrapping; any other format would lose the affine.
    assert write_image(Image(**{**vars(image), "container": "nifti-gz"}))[:2] == b"\x1f\x8b"
    with pytest.raises(UnsupportedError, match=r"\.nii or \.nii\.gz"):
        write_image(Image(**{**vars(image), "container": "png"}))


def test_a_bomb_is_refused_by_its_header():
    head = bytearray(saved(volume(2, 2, 2))[:352])
    struct.pack_into("<4h", head, 40, 3, 30000, 30000, 7)
    data = gzip.compress(bytes(head) + bytes(40 << 20))
    struct.pack_into("<4h", head, 40, 3, 20, 20, 7)
    modest = gzip.compress(bytes(head) + bytes(40 << 20))
    assert len(data) < 50_000
    tracemalloc.start()
    for function in (probe, sniff):
        function(data)
    with pytest.raises(TooLargeError, match="30000 x 30000 x 7"):
        read_image(data)
    # A modest header does not open the gate either: little more is inflated than it promises.
    with pytest.raises(InputError, match="goes on"):
        read_image(modest)
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


def test_the_checksum_of_gzip_is_compared():
    plain = saved(volume(8, 6, 3))
    stored = gzip.compress(plain, 0)  # where a bit may flip unnoticed by the decoder
    flipped = bytearray(stored)
    flipped[-30] ^= 1
    wrong = bytearray(stored)
    wrong[-8] ^= 1
    for bad in (bytes(flipped), bytes(wrong), stored[:-8]):
        with pytest.raises(InputError, match="damaged"):
            read_image(bad)
    padded = gzip.compress(plain + bytes(512))
    np.testing.assert_array_equal(read_image(padded).pixels, read_image(plain).pixels)


def altered(data: bytes, **fields: float) -> bytes:
    """``data`` with other values in its header, checked by nobody; ``pixdim0`` is the first of an array."""
    cls = nibabel.Nifti2Header if data[4:8] == b"n+2\0" else nibabel.Nifti1Header
    header = cls(data[: cls.template_dtype.itemsize], check=False)
    for name, value in fields.items():
        if name.startswith("pixdim"):
            header["pixdim"][int(name[6:])] = value
        else:
            header[name] = value
    return header.binaryblock + data[cls.template_dtype.itemsize :]


@pytest.mark.parametrize("cls", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("sform", [0, 1])
@pytest.mark.parametrize(
    "fields",
    [
        {"pixdim0": 0},
        {"pixdim0": float("nan")},
        {"pixdim1": -0.9},
        {"pixdim2": -1.3, "pixdim3": -2.4},
        {"pixdim1": 0},  # readers take 1
        {"pixdim2": 0, "qform_code": 0},
    ],
    ids=str,
)
def test_voxel_sizes_are_those_that_readers_take(cls, sform, fields):
    data = altered(saved(volume(9, 7, 5, cls=cls)), sform_code=sform, **fields)
    before, after = opened(data), opened(upscaled(data))
    np.testing.assert_allclose(
        corners(after, after.affine), corners(before, before.affine), atol=1e-5
    )
    if before.header["qform_code"]:
        old, new = before.header.get_qform(), after.header.get_qform()
        np.testing.assert_allclose(corners(after, new), corners(before, old), atol=1e-5)
    zooms = np.array(before.header.get_zooms()) / [2, 2, 1]
    np.testing.assert_allclose(after.header.get_zooms(), zooms, rtol=1e-6)
    assert after.header["sform_code"] == sform


@pytest.mark.parametrize("cls", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("length", [1 + 4.3e-7, 1 + 4e-4])
def test_half_a_turn_is_one_however_it_was_rounded(cls, length):
    data = altered(
        saved(volume(9, 7, 5, cls=cls)), quatern_b=0.6, quatern_c=0, quatern_d=0.8, sform_code=0
    )
    rounded = altered(data, quatern_b=0.6 * length, quatern_d=0.8 * length)
    with pytest.raises(ValueError, match="w2"):
        opened(rounded).header.get_qform()
    before, after = opened(data), opened(upscaled(rounded))
    assert after.header.get_qform(coded=True)[1] == 2
    np.testing.assert_allclose(
        corners(after, after.affine), corners(before, before.affine), atol=1e-4
    )


NAN = float("nan")


@pytest.mark.parametrize("fields", [{"quatern_b": NAN}, {"qoffset_y": NAN}, {"pixdim1": NAN}])
def test_a_qform_of_no_numbers_hinders_only_who_has_no_other(fields):
    """Writers of singular maps leave one beside the sform that readers take."""
    data = altered(saved(volume(9, 7, 5)), **fields)
    before, after = opened(data), opened(upscaled(data))
    np.testing.assert_allclose(
        corners(after, after.affine), corners(before, before.affine), atol=1e-5
    )
    with pytest.raises(InputError, match=r"qform \(quaternion.* not numbers"):
        read_image(altered(data, sform_code=0))


def test_a_sform_of_no_numbers_is_refused_where_it_rules():
    data = altered(saved(volume(9, 7, 5)), srow_x=[NAN, 0, 0, 0])
    with pytest.raises(InputError, match=r"sform \(srow_x.* not numbers"):
        read_image(data)
    without = altered(data, sform_code=0)
    before, after = opened(without), opened(upscaled(without))
    np.testing.assert_allclose(
        corners(after, after.affine), corners(before, before.affine), atol=1e-5
    )


def test_values_of_no_place_follow_the_header():
    for cls in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        data = saved(volume(9, 7, 5, cls=cls))
        image = read_image(altered(data, vox_offset=0))
        np.testing.assert_array_equal(image.pixels, read_image(data).pixels)
        assert image.notes
        assert not read_image(data).notes
        assert upscaled(altered(data, vox_offset=0)) == upscaled(data)
    extended = volume(9, 7, 5)
    extended.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"first remark"))
    with pytest.raises(InputError, match="begin at byte"):
        read_image(altered(saved(extended), vox_offset=0))


def test_a_quaternion_that_is_no_rotation_is_refused_on_reading():
    data = altered(saved(volume(4, 4, 2)), quatern_b=0.9, quatern_c=0.9, quatern_d=0.9)
    with pytest.raises(InputError, match=r"length 1\.55.*1 at most"):
        read_image(data)


def test_damage_and_other_kinds_are_named():
    data = saved(volume(8, 6, 3))
    with pytest.raises(InputError, match="cut short"):
        read_image(data[:-1])
    zipped = gzip.compress(data)
    with pytest.raises(InputError):
        read_image(zipped[: len(zipped) // 2])
    damaged = bytearray(zipped)
    damaged[len(damaged) // 2] ^= 0xFF
    with pytest.raises(InputError):
        read_image(bytes(damaged))
    for at, layout, value, message in [
        (42, "<h", -4, "damaged"),
        (40, "<h", 9, "damaged"),
        (40, "<h", 1, "one axis"),
        (70, "<h", 128, "colours"),
        (70, "<h", 32, "complex"),
        (68, "<h", 1002, "labels"),
        (68, "<h", 1003, "names of structures"),
        (68, "<h", 2002, "indices of nodes"),
        (68, "<h", 1009, "triangles of a mesh"),
        (108, "<f", 1e9, "begin at byte"),
        (108, "<f", float("nan"), "begin at byte"),
        (0, "<i", 5, "its own size"),
    ]:
        broken = bytearray(data)
        struct.pack_into(layout, broken, at, value)
        with pytest.raises(InputError, match=message):
            read_image(bytes(broken))
    with pytest.raises(UnsupportedError, match=r"\.hdr and \.img"):
        read_image(data[:344] + b"ni1\0" + data[348:])
    with pytest.raises(UnsupportedError, match="gzip"):
        read_image(gzip.compress(b"something else" * 100))


def test_an_axis_too_long_for_the_format_is_refused():
    data = saved(volume(17000, 2, 1))
    with pytest.raises(UnsupportedError, match=r"32767.*34000"):
        upscaled(data)


def test_the_missing_extra_is_named(monkeypatch):
    image = read_image(saved(volume(5, 5, 2)))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'rayscale\[medical\]'"):
        write_image(image)


def same_world(path: Path) -> None:
    """That the volume of ``path`` and its enlargement have the same corners and units."""
    before = nibabel.load(path)
    result = upscaled(path.read_bytes())
    plain = gzip.decompress(result) if path.suffix == ".gz" else result
    after = type(before).from_bytes(plain)
    np.testing.assert_allclose(
        corners(after, after.affine), corners(before, before.affine), atol=1e-5
    )
    assert after.header.get_xyzt_units() == before.header.get_xyzt_units()


def test_real_volumes(shared_data):
    paths = sorted((shared_data / "domain/medical/nifti").iterdir())
    assert len(paths) >= 4
    for path in paths:
        if path.stat().st_size < 1 << 20:
            same_world(path)


NIBABEL_FILES = Path(nibabel.__file__).parent / "tests/data"


@pytest.mark.parametrize(
    "name",
    [
        "anatomical.nii", "example4d.nii.gz", "example_nifti2.nii.gz", "functional.nii",
        "reoriented_anat_moved.nii", "resampled_anat_moved.nii", "standard.nii.gz",
    ],
)  # fmt: skip
def test_the_volumes_of_nibabel(name):
    same_world(NIBABEL_FILES / name)


def test_connectivity_is_no_image():
    with pytest.raises(UnsupportedError, match="CIFTI"):
        read_image((NIBABEL_FILES / "row_major.dconn.nii").read_bytes())
