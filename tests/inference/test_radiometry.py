"""Means, flat images and invariance: what an upscale must not change, for any network and any weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.errors import InputError
from rayscale.imaging import Image, read_image
from rayscale.imaging.levels import Levels
from rayscale.inference import Upscaler
from rayscale.inference.flatfield import FlatField
from rayscale.inference.localmean import keep_local_means, reach
from rayscale.models.builtin import bundled_names, open_builtin, read_spec
from rayscale.models.network import SuperResolver
from rayscale.models.systems import SYSTEMS, create_model
from rayscale.options import Options
from rayscale.resampling import upsample

TRAINED = [name for name, system in SYSTEMS.items() if not system.network.keeps_means]


def make(name: str, seed: int = 1) -> SuperResolver:
    """A narrow network of random weights."""
    torch.manual_seed(seed)
    system = SYSTEMS[name]
    sizes = {"filters": 8, "blocks": 2}
    options = {key: value for key, value in sizes.items() if key in system.options}
    return create_model(name, scale=2 if 2 in system.scales else 4, **options).eval()


def colours(model: SuperResolver, seed: int) -> np.ndarray:
    count = 3 if model.any_channels else model.channels
    return np.random.default_rng(seed).uniform(500, 3000, count)


@pytest.mark.parametrize("name", TRAINED)
def test_a_flat_image_stays_flat(name: str) -> None:
    """Away from the border, up to what lies between the nodes of the table, which random weights make much of."""
    model = make(name)
    scale, side = model.scales[0], 2 * model.halo(model.scales[0]) + 12
    colour = colours(model, 2)
    pixels = np.broadcast_to(colour, (side, side, len(colour))).astype(np.float32)
    levels = Levels((0.0,), (4000.0,), "test")
    inner = slice(side // 2 * scale - 3 * scale, side // 2 * scale + 3 * scale)
    apart = [
        np.abs(
            Upscaler(model, Options(scale=scale, precision="float32"), calibrate=calibrate)
            .upscale_pixels(pixels, levels)[inner, inner]
            .astype(float)
            - colour
        ).max()
        for calibrate in (True, False)
    ]
    assert apart[0] <= max(0.25 * apart[1], 0.02)


@pytest.mark.parametrize("name", ["edsr-baseline", "meta-srgan", "srresnet"])
def test_the_ensemble_has_the_mean_of_eight_flat_fields(name: str) -> None:
    model = make(name)
    scale = model.scales[0]
    field = FlatField.measure(model, scale, model.channels, torch.float32)
    assert field is not None
    side = 2 * model.halo(scale) + 8
    colour = torch.linspace(0.2, 0.7, model.channels) * model.spec.value_range
    x = colour[None, :, None, None].expand(1, -1, side, side).contiguous()
    raw = Upscaler(
        model,
        Options(scale=scale, precision="float32", ensemble=True),
        calibrate=False,
    ).predictor.predict(x)
    corrected = raw.clone()
    field.averaged().subtract(corrected, x)
    inner = slice(side // 2 * scale - 4, side // 2 * scale + 4)
    before = (raw - colour[None, :, None, None])[..., inner, inner].abs().max()
    after = (corrected - colour[None, :, None, None])[..., inner, inner].abs().max()
    assert after <= 0.05 * before


@pytest.mark.parametrize("name", TRAINED)
@given(seed=st.integers(0, 2**31), height=st.integers(8, 40), width=st.integers(8, 40))
@settings(max_examples=5)
def test_the_mean_of_each_band_is_kept(name: str, seed: int, height: int, width: int) -> None:
    model = make(name, seed)
    random = np.random.default_rng(seed)
    count = 3 if model.any_channels else model.channels
    pixels = random.gamma(2.0, 400.0, (height, width, count)).astype(np.float32) + 300
    image = Image(pixels, levels=Levels((0.0,), (4000.0,), "test"))
    larger = (
        Upscaler(model, Options(scale=model.scales[0], precision="float32")).upscale(image).pixels
    )
    drift = larger.astype(float).mean((0, 1)) / pixels.astype(float).mean((0, 1)) - 1
    assert np.abs(drift).max() < 1e-4


@given(
    factor=st.sampled_from([0.5, 3.0, 17.0, 1e-4]),
    dtype=st.sampled_from(["int16", "uint16", "float32", "float64", "int32"]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=10)
def test_scaling_or_another_type_scales_the_result_and_nothing_else(
    factor: float, dtype: str, seed: int
) -> None:
    model = make("edsr-baseline")
    upscaler = Upscaler(model, Options(scale=2, precision="float32"))
    values = np.random.default_rng(seed).integers(200, 1500, (24, 24, 3))

    def upscale(pixels: np.ndarray) -> np.ndarray:
        levels = Levels.of_measured(pixels.dtype, [(pixels, True)], (0, 1), "", 24 * 24)
        return upscaler.upscale_pixels(pixels, levels).astype(float)

    scaled = np.dtype(dtype).kind == "f" or factor in (3.0, 17.0)
    kind = np.dtype(dtype)
    times = (
        factor if scaled and (kind.kind == "f" or 1500 * factor * 1.5 < np.iinfo(kind).max) else 1
    )
    first = upscale(values.astype(np.float64))
    if kind.kind in "iu":  # values beyond the type are clipped, which random weights may make
        first = np.clip(first, np.iinfo(kind).min / times, np.iinfo(kind).max / times)
    second = upscale((values * times).astype(kind)) / times
    unit = 0.51 / times if kind.kind in "iu" else 0.0
    assert np.abs(first - second).max() <= unit + 2e-4 * np.ptp(first)


@pytest.mark.parametrize("name", [*TRAINED, "aplus"])
@pytest.mark.parametrize("value", [1e4, -1e4, 1e23])
def test_a_value_out_of_range_is_interpolated_and_moves_no_other(name: str, value: float) -> None:
    """What lies beyond the range by more than itself is added by bicubic interpolation, which reaches two pixels."""
    model = open_builtin("aplus-x2").network if name == "aplus" else make(name)
    scale, side = model.scales[0], 24
    upscaler = Upscaler(model, Options(scale=scale, precision="float32"))
    pixels = np.random.default_rng(0).uniform(0, 1, (side, side, 3)).astype(np.float32)
    levels = Levels((0.0,), (1.0,), "test")

    def upscale(outlier: float) -> np.ndarray:
        source = pixels.copy()
        source[12, 11, 0] = outlier
        return upscaler.upscale_pixels(source, levels).astype(float)

    limit = 2.0 if value > 0 else -1.0
    rest = torch.zeros(side, side, dtype=torch.float64)
    rest[12, 11] = value - limit
    expected = upscale(limit)
    expected[..., 0] += upsample(rest, scale).numpy()
    np.testing.assert_allclose(upscale(value), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(upscale(value) - upscale(limit))[: 9 * scale].max() == 0


@pytest.mark.parametrize("fill", [-9999, -32768])
def test_a_fill_that_no_one_declared_spoils_its_edge_alone(fill: int) -> None:
    """The rest comes out as without it: before, values of a span of 0.4 were off by 4 wherever they lay."""
    upscaler = Upscaler(
        open_builtin("edsr-baseline-x2").network, Options(scale=2, precision="float32")
    )
    y, x = np.indices((40, 72))[..., None]
    scene = (0.25 + 0.2 * np.sin(x / 5 + np.arange(3)) * np.cos(y / 7)).astype(np.float32)
    filled = scene.copy()
    filled[:, :14] = fill

    def upscale(pixels: np.ndarray) -> np.ndarray:
        levels = Levels.of_measured(pixels.dtype, [(pixels, True)], (0, 1), "", pixels[..., 0].size)
        return upscaler.upscale_pixels(pixels, levels)[:, 2 * 14 + 16 :]

    assert np.abs(upscale(filled) - upscale(scene)).max() < 0.02 * 0.4


def test_windows_agree_beside_a_value_out_of_range() -> None:
    model = make("edsr-baseline")
    upscaler = Upscaler(model, Options(scale=2, precision="float32"))
    pixels = np.random.default_rng(0).uniform(0, 1, (90, 20, 3)).astype(np.float32)
    pixels[40, 9] = 5000
    levels = Levels((0.0,), (1.0,), "test")
    whole = upscaler.upscale_pixels(pixels, levels)
    halo = upscaler.frames.halo
    for core in (slice(0, 39), slice(39, 90)):
        seen = slice(max(core.start - halo, 0), min(core.stop + halo, 90))
        part = upscaler.upscale_pixels(pixels[seen], levels)
        inner = part[2 * (core.start - seen.start) :][: 2 * (core.stop - core.start)]
        np.testing.assert_allclose(inner, whole[2 * core.start : 2 * core.stop], atol=1e-4)


@pytest.mark.parametrize("name", ["bicubic", "edsr-baseline-x2"])
def test_values_at_the_end_of_a_type_are_named_not_the_weights(name: str) -> None:
    upscaler = Upscaler(open_builtin(name).network, Options(scale=2))
    for dtype, value, white, message in (
        ("f4", 3.4e38, 3e36, r"next to 3\.40282e\+38, where float32 ends.*nodata"),
        (
            "f4",
            3.4e38,
            1,
            r"the value 3\.4e\+38 is out of all proportion to the range from 0 to 1 ",
        ),
        ("f8", -1e300, 1, r"the value -1e\+300 is out of all proportion.*nodata"),
    ):
        pixels = np.full((12, 12, 3), 0.5, dtype)
        pixels[5:7, 5:7] = value  # interpolated beyond its ends
        with pytest.raises(InputError, match=message):
            upscaler.upscale_pixels(pixels, Levels((0.0,), (white,), "test"))


def test_eight_bits_of_a_measurement_are_measured_too() -> None:
    values = np.random.default_rng(0).integers(20, 90, (30, 30, 1))
    found = [
        Levels.of_measured(np.dtype(t), [(values.astype(t), True)], (0, 1), "", 900)
        for t in ("u1", "u2", "i2", "f4")
    ]
    assert {(levels.black, levels.white) for levels in found} == {(found[0].black, found[0].white)}


@given(seed=st.integers(0, 2**31), cut=st.integers(1, 39))
@settings(max_examples=20)
def test_levels_leave_out_a_thousandth_however_the_file_is_cut(seed: int, cut: int) -> None:
    values = np.random.default_rng(seed).normal(1000, 100, (40, 50, 2)).astype(np.float32)
    values[3, 4], values[5, 6] = 65535, -9999  # saturated; a fill that no one declared
    whole = Levels.of_measured(values.dtype, [(values, True)], (0, 1), "", 2000)
    parts = [(values[:cut], True), (values[cut:], True)]
    assert Levels.of_measured(values.dtype, parts, (0, 1), "", 2000) == whole
    ordered = np.sort(values.reshape(-1, 2), axis=0)
    assert whole.black == tuple(ordered[2].tolist())
    assert whole.white == tuple(ordered[-3].tolist())


def test_local_means_are_kept_within_their_reach_alone() -> None:
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.random((1, 1, 40, 40), np.float32))
    y = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    moved = y.clone()
    moved[..., 40, 40] += 1
    apart = (keep_local_means(moved, x, 2) - y)[0, 0]
    assert apart.sum().abs() < 1e-4
    touched = torch.nonzero(apart.abs() > 1e-7)
    far = reach(2) * 2
    assert touched.min() >= 40 - far
    assert touched.max() < 42 + far


NETWORKS = [
    (name, scale)
    for name in bundled_names()
    for scale in read_spec(name)[0].scales or (2, 3, 4)
    if scale in (2, 3, 4)
]


def crops(data: Path) -> Iterator[np.ndarray]:
    """Parts of real files, in three channels: Sentinel-2, Landsat, and slices of scanners."""
    satellite = data / "domain" / "satellite"
    for path in sorted(satellite.glob("eurosat/*_1.tif"))[::2]:
        yield read_image(path.read_bytes()).pixels[:24, :24, (3, 2, 1)]
    bands = [next(satellite.glob(f"landsat8/{band}_*")) for band in ("red", "green", "blue")]
    yield np.dstack([read_image(path.read_bytes()).pixels[:24, :24] for path in bands])
    for name in ("CT_small", "MR_small"):
        pixels = read_image(
            (data / "domain" / "medical" / "dicom" / f"{name}.dcm").read_bytes()
        ).pixels
        yield np.repeat(pixels[20:44, 20:44, :1], 3, axis=2)


def enlarge(upscaler: Upscaler, pixels: np.ndarray) -> np.ndarray:
    levels = Levels.of_measured(pixels.dtype, [(pixels, True)], (0, 1), "", pixels[..., 0].size)
    return upscaler.upscale_pixels(pixels, levels).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), NETWORKS)
def test_every_bundled_network_keeps_the_means_of_real_files(
    shared_data: Path, name: str, scale: int
) -> None:
    upscaler = Upscaler(open_builtin(name).network, Options(scale=scale, precision="float32"))
    for pixels in crops(shared_data):
        means = pixels.astype(float).mean((0, 1))
        drift = enlarge(upscaler, pixels.astype(np.float32)).mean((0, 1)) - means
        assert np.abs(drift / means).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), NETWORKS)
def test_types_and_factors_change_nothing_else_of_a_real_file(
    shared_data: Path, name: str, scale: int
) -> None:
    upscaler = Upscaler(open_builtin(name).network, Options(scale=scale, precision="float32"))
    pixels = next(crops(shared_data))
    first = enlarge(upscaler, pixels.astype(np.float64))
    for dtype, factor, unit in (("u2", 1, 0.5), ("i2", 3, 1 / 6), ("f4", 1e-4, 0)):
        other = enlarge(upscaler, (pixels * float(factor)).astype(dtype)) / factor
        assert np.abs(other - first).max() <= unit + 1e-4 * np.ptp(first)


def test_the_default_model_keeps_the_colours_of_a_scene_in_16_bits(shared_data: Path) -> None:
    """Band means were off by +7.8, +4.3 and -7.5 per cent."""
    found = []
    upscaler = Upscaler(
        open_builtin("edsr-baseline-x2").network,
        Options(scale=2, precision="float32"),
    )
    for name in ("s2_rgb_uint16.tif", "s2_rgb_int16_same_values.tif"):
        image = read_image((shared_data / "faults" / name).read_bytes())
        larger = upscaler.upscale(image).pixels.astype(float)
        drift = larger.mean((0, 1)) / image.pixels.astype(float).mean((0, 1)) - 1
        assert np.abs(drift).max() < 1e-3
        found.append(larger)
    assert np.abs(found[0] - found[1]).max() <= 1


@pytest.mark.parametrize("name", ["edsr-baseline-x2", "edsr-baseline-x3", "mdsr-baseline-x234"])
def test_no_grid_lies_over_flat_regions(name: str) -> None:
    """The places of the output grid differ by rounding alone, though an edge lies in the image."""
    model = open_builtin(name).network
    scale = model.scales[0]
    side = 2 * model.halo(scale) + 12
    pixels = np.broadcast_to(np.array([612, 884, 1041], np.uint16), (side, side, 3)).copy()
    pixels[:4, :4] = 3000
    levels = Levels((300.0,), (3000.0,), "test")
    upscaler = Upscaler(model, Options(scale=scale, precision="float32"))
    larger = upscaler.upscale_pixels(pixels, levels)
    middle = larger[side // 2 * scale :, side // 2 * scale :][: 4 * scale, : 4 * scale]
    assert np.ptp(middle, axis=(0, 1)).max() <= 1
